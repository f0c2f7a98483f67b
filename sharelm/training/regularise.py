"""What training does to shared blocks beyond the loss: scaled gradients, and the seeds of masks."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor

from sharelm.model import Decoder
from sharelm.sharing import KINDS


def scale_gradients(model: Decoder, rule: str) -> None:
    """Scale the gradient of a block read n times: "sum" leaves it, "mean" divides by n, "root" by sqrt(n).

    Before a late loop switches on, every block is read once and nothing is scaled. AdamW divides gradients by their own
    size, so that the rule acts only through clipping, by each block's share in the global norm.
    """
    power = {"sum": 0.0, "mean": 1.0, "root": 0.5}[rule]
    if not power:
        return
    for kind in KINDS:
        uses = Counter(model.sharing.schedule(kind))
        for number, block in enumerate(getattr(model, f"{kind}_blocks")):
            factor = uses[number] ** -power

            def scaled(gradient: Tensor, factor: float = factor) -> Tensor:
                return gradient * factor if model.looping else gradient

            for parameter in block.parameters():
                parameter.register_hook(scaled)


def seed_masks(seed: int, step: int, rank: int, number: int) -> None:
    """Seed torch's generators for the masks of one pass (`number`), so that a resumed trial draws the same masks.

    Another number of workers or of sequences per pass draws other masks of the same distribution.
    """
    digest = hashlib.sha256(f"{seed} {step} {rank} {number}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8]) >> 1)
