"""One batch of prompts served greedily, step by step; on a GPU each step may be one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharelm.model import Decoder
from sharelm.study.cost import Workload

Step = Callable[[], Tensor]


class Request:
    """One batch of random prompts; time does not depend on what the tokens say."""

    def __init__(self, model: Decoder, workload: Workload) -> None:
        generator = torch.Generator().manual_seed(0)
        size = (workload.batch, workload.prompt_tokens)
        self.model = model
        self.workload = workload
        self.prompt = torch.randint(model.shape.vocabulary, size, generator=generator).to(model.device)
        self.caches = model.caches(workload.batch, workload.prompt_tokens + workload.new_tokens)
        self._newest = self.prompt[:, -1:]

    def prefill(self) -> Tensor:
        """The first new token [B, 1] of every prompt, from empty caches."""
        self.caches.keep([0] * self.workload.batch)
        return self._next(self.prompt)

    def decode(self) -> Tensor:
        """The token [B, 1] that follows the newest and all before it."""
        return self._next(self._newest)

    def decode_last(self) -> Tensor:
        """The last step of a request alone: what the one before it left is taken as there."""
        self.caches.keep([self.workload.prompt_tokens + self.workload.new_tokens - 2] * self.workload.batch)
        return self.decode()

    def steps(self) -> list[Step]:
        """The prefill and every decoding step, to be taken in this order."""
        return [self.prefill] + [self.decode] * (self.workload.new_tokens - 1)

    def _next(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, caches=self.caches, last_only=True)
        self._newest = logits[:, -1].argmax(dim=-1, keepdim=True)
        return self._newest


def graphed(request: Request) -> list[Step]:
    """The request's steps, each captured as one CUDA graph: what servers do, lest a small model waits for its host.

    A graph for every step holds the lengths its caches have there. Called in inference mode.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in request.steps():  # libraries set themselves up at first use, which no capture may hold
            step()
    torch.cuda.current_stream().wait_stream(side)
    pool = torch.cuda.graph_pool_handle()
    return [_captured(step, pool) for step in request.steps()]


def _captured(step: Step, pool: Any) -> Step:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        token = step()

    def replay() -> Tensor:
        graph.replay()
        return token

    return replay
