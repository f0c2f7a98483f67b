"""Muon for the matrices of blocks and AdamW for the rest, as one optimizer, since DeepSpeed takes one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sharelm.model import Decoder
from sharelm.sharing import KINDS


def block_matrices(model: Decoder) -> list[nn.Parameter]:
    """The parameters that Muon steps: the stored matrices of all blocks, a shared one once.

    AdamW steps embeddings, norm gains and what depths store of their own (low-rank factors, coefficients,
    hyper-connections).
    """
    blocks = [block for kind in KINDS for block in getattr(model, f"{kind}_blocks")]
    return [parameter for block in blocks for parameter in block.parameters() if parameter.dim() == 2]


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers of disjoint parameters, stepped together. `param_groups` are the groups of both."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self._parts = {"muon": muon, "adamw": adamw}
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self.param_groups = [*muon.param_groups, *adamw.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both optimizers."""
        for part in self._parts.values():
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both optimizers, which replaces `param_groups`."""
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self._parts.values() for group in part.param_groups]
