"""The embedding of tokens and the head, whole or factorised: the same matrix, or one each."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Vocabulary(NamedTuple):
    """A vector of E numbers for every token; where E is less than the model's width, with what makes it as wide."""

    matrix: Tensor  # [vocabulary, E]
    expansion: Tensor | None  # [width, E]

    def vectors(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """The embeddings [B, T, width] of `tokens` [B, T]."""
        found = F.embedding(tokens, self.matrix).to(dtype)
        return found if self.expansion is None else F.linear(found, self.expansion.to(dtype))

    def narrowed(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., width] as wide as the matrix, [..., E]."""
        return hidden if self.expansion is None else F.linear(hidden, self.expansion.t().to(hidden.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        narrow = self.narrowed(hidden)
        return F.linear(narrow, self.matrix.to(narrow.dtype))
