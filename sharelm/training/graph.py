"""A training pass as one CUDA graph, which launches the kernels of forward, loss and backward at once.

A study's models are small: launching their kernels one by one takes the host longer than the GPU needs to run them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GraphedPass:
    """A captured forward and backward pass of a model whose parameters stay at their addresses.

    Args:
        loss_of: returns the loss to learn from and the loss to report, for a batch and a weight that may change.
        parameters: the parameters to compute gradients of.
        batch: a batch of the size that every batch will have, on the device.
        scale: the factor of the gradients, 1 / the number of passes whose gradients are summed.
        pool: the memory of another graph, which must never run at the same time.
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
        with torch.cuda.stream(side):  # compiles and loads what its first use would
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
        """The graph's memory, which other graphs may share."""
        return self._graph.pool()

    def _clear(self) -> None:
        """Set gradients to None, so that a pass writes them, or to zeros, so that it adds to them."""
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter) if self._adds else None

    def __call__(self, batch: Tensor, weight: float) -> Tensor:
        """Run the pass on this batch, which writes or adds to the parameters' gradients; returns the loss to report."""
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
