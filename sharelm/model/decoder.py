"""The decoder that a shape and a sharing make. It reads the schedules and knows no scheme by name."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharelm.model.blocks import NORM_EPSILON, AttentionBlock, FeedForwardBlock, rotary_table
from sharelm.model.caches import Caches, Extend
from sharelm.sharing import ModelShape, Sharing

INITIAL_DEVIATION = 0.02


class Decoder(nn.Module):
    """A language model whose depths read stored blocks by schedule.

    Each stored block is registered once, however many depths read it. The output head is the token embedding.
    """

    def __init__(self, shape: ModelShape, sharing: Sharing, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.sharing = sharing
        self.activation_checkpointing = activation_checkpointing
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, shape.width))
        self.attention_blocks = nn.ModuleList(AttentionBlock(shape) for _ in range(sharing.attention_blocks))
        self.feed_forward_blocks = nn.ModuleList(FeedForwardBlock(shape) for _ in range(sharing.feed_forward_blocks))
        self.final_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self._rotary_table: Tensor | None = None  # no buffer: a buffer would be rounded to bf16 with the weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def initialise(self, seed: int) -> Decoder:
        """Draw every weight from `seed` and the weight's name alone; returns the model.

        Drawn on the CPU in fp32, so that every device starts the same, and so do the blocks that two arms both
        have. Matrices are N(0, 0.02); those that write to the residual stream are divided by sqrt(2 x depth).
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
                continue
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
            writes = name.endswith(("output.weight", "down.weight"))
            deviation = INITIAL_DEVIATION / (2 * self.sharing.depth) ** 0.5 if writes else INITIAL_DEVIATION
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        return self

    def caches(self, batch: int, capacity: int) -> Caches:
        """Empty caches for `batch` rows of up to `capacity` tokens, on this model's device, in its precision."""
        return Caches(self.shape, self.sharing.depth, batch, capacity, self.device, self.embedding.dtype)

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        if self._rotary_table is None or self._rotary_table.device != positions.device:
            with torch.inference_mode(False):  # training may use it later
                self._rotary_table = rotary_table(self.shape, positions.device)
        return self._rotary_table[:, positions][:, :, None].to(dtype)

    def _depth(self, depth: int, hidden: Tensor, rotary: Tensor, extend: Extend | None = None) -> Tensor:
        hidden = hidden + self.attention_blocks[self.sharing.attention[depth]](hidden, rotary, extend)
        result: Tensor = hidden + self.feed_forward_blocks[self.sharing.feed_forward[depth]](hidden)
        return result

    def hidden(self, tokens: Tensor, caches: Caches | None = None) -> Tensor:
        """Final hidden states [B, T, width] of `tokens` [B, T], which follow what the caches hold."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if caches is not None:
            positions = caches.begin(tokens.shape[1])
        hidden = F.embedding(tokens, self.embedding)
        rotary = self._rotary(positions, hidden.dtype)
        for depth in range(self.sharing.depth):
            if caches is not None:
                hidden = self._depth(depth, hidden, rotary, caches.at(depth))
            elif self.activation_checkpointing and torch.is_grad_enabled():
                # re-entrant checkpointing crashes DeepSpeed when one block is used several times
                hidden = checkpoint(self._depth, depth, hidden, rotary, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = self._depth(depth, hidden, rotary)
        if caches is not None:
            caches.end()
        result: Tensor = self.final_norm(hidden)
        return result

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        return F.linear(hidden, self.embedding)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        caches: Caches | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits [B, T, vocabulary] of `tokens` [B, T]; with `targets` [B, T], their mean loss in nats (fp32).

        `last_only` gives the last position's logits alone, [B, 1, vocabulary]: what a prefill needs.
        """
        hidden = self.hidden(tokens, caches)
        logits = self.head(hidden[:, -1:] if last_only else hidden)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
