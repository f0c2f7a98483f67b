"""The head and its cross-entropy in one, a chunk of positions at a time: whole logits are never held.

Liger's and torch's (from 2.13 on, `linear_cross_entropy`) do the same; `docs/decisions.md` says why this is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharelm.closed_form.memory import HEAD_ROWS

LossAndGradient = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def loss_and_gradient(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each position's cross-entropy in nats [N] (fp32), and a gradient by `logits` [N, vocabulary].

    The gradient is that of `scale` times the sum of the losses.
    """
    exact = logits.float()
    log_sum = exact.logsumexp(dim=-1, keepdim=True)
    loss = log_sum - exact.gather(1, targets[:, None])
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return loss[:, 0], (((exact - log_sum).exp() - is_target.float()) * scale).to(logits.dtype)


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    loss_and_gradient: LossAndGradient = loss_and_gradient,
    rows: int = HEAD_ROWS,
) -> Tensor:
    """Mean cross-entropy in nats (fp32) of the logits `hidden` [N, E] x `head` [vocabulary, E] for `targets` [N].

    Products are in the precision of `hidden`, sums and the head's gradient in fp32. Gradients are computed with the
    loss, `rows` positions at a time, so that the head is multiplied three times in all and not four.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, targets, loss_and_gradient, rows)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    """`head_loss`, whose forward pass computes the gradients too; its backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, loss_and_gradient: LossAndGradient, rows: int
    ) -> Tensor:
        matrix, scale = head.to(hidden.dtype), 1 / len(hidden)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        losses = []
        for start in range(0, len(hidden), rows):
            some = hidden[start : start + rows]
            loss, logits_gradient = loss_and_gradient(some @ matrix.t(), targets[start : start + rows], scale)
            losses.append(loss)
            torch.mm(logits_gradient, matrix, out=hidden_gradient[start : start + rows])
            if some.dtype == torch.bfloat16 and some.is_cuda:  # the product adds before it rounds
                torch.addmm(head_gradient, logits_gradient.t(), some, out_dtype=torch.float32, out=head_gradient)
            else:
                head_gradient += logits_gradient.t() @ some
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return (
            hidden_gradient * gradient.to(hidden_gradient.dtype),
            head_gradient * gradient.to(head_gradient.dtype),
            None,
            None,
            None,
        )
