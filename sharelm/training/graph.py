"""A pass as one CUDA graph: forward, loss and backward are launched at once, whatever the host has to say about it.

A study's models are small: launching their kernels one by one takes a host longer than the GPU needs to run them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GraphedPass:
    """`loss_of(batch, weight)` and its gradients, times `scale`, of a model whose parameters stay where they are.

    Args:
        loss_of: the loss to learn from and the loss to report, of a batch and of a weight that may change.
        parameters: what gradients are wanted of.
        batch: a batch of the size that all will have, on the device.
        scale: 1 / the number of passes whose gradients are summed.
        pool: memory that another graph, which is never at work at the same time, captured into.
    """

    def __init__(
        self,
        loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        parameters: list[nn.Parameter],
        batch: Tensor,
        scale: float,
        pool: Any = None,
    ) -> None:
        self._parameters, self._batch = parameters, batch.clone()
        self._weight = torch.zeros((), device=batch.device)
        self._adds = scale < 1

        def run() -> Tensor:
            learnt, reported = loss_of(self._batch, self._weight)
            (learnt * scale).backward()  # type: ignore[no-untyped-call]
            return reported.detach()

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is compiled or loaded at its first use is then there
            self._clear()
            run()
        torch.cuda.current_stream().wait_stream(side)
        self._clear()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._loss = run()
        self._gradients = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None

    @property
    def pool(self) -> Any:
        """Where the graph's memory is."""
        return self._graph.pool()

    def _clear(self) -> None:
        """Without gradients a pass writes them; with zeros it adds to them."""
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter) if self._adds else None

    def __call__(self, batch: Tensor, weight: float) -> Tensor:
        """The loss to report; gradients are in, or added to, the parameters' own."""
        if self._adds and all(p.grad is None for p in self._parameters):
            torch._foreach_zero_([g for g in self._gradients if g is not None])
        self._batch.copy_(batch)
        self._weight.fill_(weight)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss


class _WithoutBackward(torch.autograd.Function):
    """A copy of the loss that has a gradient function, which computes nothing."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, None]:
        return None, None


def loss_without_backward(loss: Tensor) -> Tensor:
    """A loss to hand to the engine after a graph has already computed the gradients.

    DeepSpeed counts passes and reduces gradients in its `backward`, which asks for a loss with a gradient function.
    This one's backward pass computes nothing and leaves the gradients as they are.
    """
    start = torch.empty((), device=loss.device, requires_grad=True)
    wrapped: Tensor = _WithoutBackward.apply(start, loss)  # type: ignore[no-untyped-call]
    return wrapped
