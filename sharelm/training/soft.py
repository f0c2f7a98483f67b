"""Soft tying: the penalty that pulls depths together, and the distances between depths after training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharelm.model import Decoder
from sharelm.sharing import KINDS


def _groups(model: Decoder) -> Iterator[tuple[str, str, list[int], Tensor]]:
    """Kind, matrix, depths and their matrices [depths, outputs, inputs], for every group of several depths."""
    for kind in KINDS:
        groups, blocks = model.sharing.groups(kind), getattr(model, f"{kind}_blocks")
        for number in sorted(set(groups)):
            depths = [depth for depth, group in enumerate(groups) if group == number]
            if len(depths) < 2:
                continue
            for name in model.shape.matrices(kind):
                if name not in model.sharing.tied(kind):
                    yield kind, name, depths, torch.stack([getattr(blocks[d], name).weight for d in depths])


def penalty(model: Decoder, weight: float | Tensor) -> Tensor:
    """weight / 2 x the sum of |W_l - mean|^2 over all matrices that are pulled together."""
    spreads = [(stack - stack.mean(0)).float().square().sum() for *_, stack in _groups(model)]
    return weight / 2 * torch.stack(spreads).sum()


@torch.no_grad()
def distances(model: Decoder) -> list[dict[str, Any]]:
    """A row for each matrix of each depth: |W_l - mean| over the root mean square of |W| in its group (Frobenius).

    0 is shared. Independent random matrices are at sqrt(1 - 1 / n) in a group of n.
    """
    rows = []
    for kind, name, depths, stack in _groups(model):
        apart = (stack - stack.mean(0)).float().flatten(1).norm(dim=1)
        scale = stack.float().flatten(1).norm(dim=1).square().mean().sqrt()
        for depth, distance in zip(depths, (apart / scale).tolist(), strict=True):
            group = model.sharing.groups(kind)[depth]
            rows.append({"kind": kind, "block": group, "depth": depth, "matrix": name, "distance": distance})
    return rows
