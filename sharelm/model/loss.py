"""The head and its cross-entropy in one, a chunk of positions at a time: whole logits are never held.

Liger's and torch's (from 2.13 on, `linear_cross_entropy`) do the same; `docs/decisions.md` says why this is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharelm.sharing.footprint import HEAD_ROWS

Slopes = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def slopes(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each position's loss in nats [N] (fp32), and the gradient of scale x their sum by `logits` [N, vocabulary]."""
    exact = logits.float()
    total = exact.logsumexp(dim=-1, keepdim=True)
    loss = total - exact.gather(1, targets[:, None])
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return loss[:, 0], (((exact - total).exp() - hit.float()) * scale).to(logits.dtype)


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, slopes: Slopes = slopes, rows: int = HEAD_ROWS) -> Tensor:
    """Mean cross-entropy in nats (fp32) of the logits `hidden` [N, E] x `head` [vocabulary, E] for `targets` [N].

    Products are in the precision of `hidden`, sums and the head's gradient in fp32. Gradients are computed with the
    loss, `rows` positions at a time, so that the head is multiplied three times in all and not four.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, targets, slopes, rows)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, slopes: Slopes, rows: int) -> Tensor:
        matrix, scale = head.to(hidden.dtype), 1 / len(hidden)
        by_hidden = torch.empty_like(hidden)
        by_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        losses = []
        for start in range(0, len(hidden), rows):
            some = hidden[start : start + rows]
            loss, by_logits = slopes(some @ matrix.t(), targets[start : start + rows], scale)
            losses.append(loss)
            torch.mm(by_logits, matrix, out=by_hidden[start : start + rows])
            if some.dtype == torch.bfloat16 and some.is_cuda:  # added before it is rounded, in the product itself
                torch.addmm(by_head, by_logits.t(), some, out_dtype=torch.float32, out=by_head)
            else:
                by_head += by_logits.t() @ some
        ctx.save_for_backward(by_hidden, by_head.to(head.dtype))
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_hidden, by_head = ctx.saved_tensors
        return by_hidden * slope.to(by_hidden.dtype), by_head * slope.to(by_head.dtype), None, None, None
