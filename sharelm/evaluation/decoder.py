"""The scorer of one of the project's own models."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sharelm.data.tokenizer import end_of_text
from sharelm.evaluation.causal import CausalScorer
from sharelm.evaluation.encoding import Encoding
from sharelm.model import Decoder, generate


class DecoderModel:
    """A decoder as a `CausalModel`."""

    def __init__(self, model: Decoder) -> None:
        self._model, self.context, self.device = model, model.shape.context, model.device

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, width] of `tokens` [B, T]."""
        return self._model.hidden(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        return self._model.head(hidden)

    @property
    def branches(self) -> bool:
        """Whether `branched` gives what reading every text whole gives: not where a token's last loop is read."""
        return self._model.sharing.kv != "last"

    def branched(self, contexts: Tensor, lengths: list[int], rows: list[int], tokens: Tensor) -> Tensor:
        """Final hidden states [R, 1 + T, width] of a context's last token and of the tokens that follow it."""
        caches = self._model.caches(len(contexts), contexts.shape[1] + tokens.shape[1])
        hidden = self._model.hidden(contexts, caches)
        caches.keep(lengths)
        last = torch.tensor(lengths, device=hidden.device) - 1
        start = hidden[torch.arange(len(lengths), device=hidden.device), last][rows][:, None]
        if not tokens.shape[1]:
            return start
        caches.select(rows)
        return torch.cat([start, self._model.hidden(tokens, caches)], dim=1)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The `new_tokens` tokens that greedily follow each prompt."""
        return generate(self._model, prompts, new_tokens)


class DecoderScorer(CausalScorer):
    """A `Scorer` over a decoder. End of text comes before every text: that is what training documents follow."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, tokens_per_batch: int) -> None:
        end = end_of_text(tokenizer)
        super().__init__(DecoderModel(model), Encoding(tokenizer, end, end, special_tokens=False), tokens_per_batch)
