"""The decoder that a shape and a sharing make. It reads the value and knows no scheme by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharelm.digest import code_digest
from sharelm.model import attention
from sharelm.model.blocks import NORM_EPSILON, Block, normed, own_gains, rotary_table, stored_blocks, turned
from sharelm.model.caches import Caches, Seen
from sharelm.model.depth import SubLayer, run_depth
from sharelm.model.initial import draw, draw_into, drawers
from sharelm.model.lanes import Lanes
from sharelm.model.loss import head_loss, slopes
from sharelm.model.recipes import Recipes, Weights
from sharelm.sharing import KINDS, ModelShape, Sharing
from sharelm.sharing.checks import check_shape
from sharelm.sharing.shape import Kind

INITIAL_DEVIATION = 0.02
COMPILED_SHAPES = 64  # torch would stop at 8 and refuse the next; a study's twins have many


class Decoder(nn.Module):
    """A language model whose depths read stored blocks by schedule, and deltas of their own.

    Each stored parameter is registered once, however many depths read it. Raises `InputError` where the shape cannot
    build the sharing. `looping` is False while a late loop has not switched on. In training `dropout` (1207.0580, of
    what each sub-layer adds) and `stochastic_depth` (1603.09382: whole sub-layers of a sequence, rising linearly to
    this rate at the last depth) draw from torch's generator; a dropped sub-layer is computed and masked, so that every
    parameter is touched in every step. Activations are in `compute_dtype`, the weights' own if None.
    """

    def __init__(
        self,
        shape: ModelShape,
        sharing: Sharing,
        *,
        activation_checkpointing: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_shape(shape, sharing)
        self._compute_dtype = compute_dtype
        self._run_depth, self._slopes, self._flexible = run_depth, slopes, False
        self.looping = True
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth
        self.shape = shape
        self.sharing = sharing
        self.activation_checkpointing = activation_checkpointing
        width = sharing.embedding_width(shape)
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, width))
        self.attention_blocks = stored_blocks(shape, sharing, "attention")
        self.feed_forward_blocks = stored_blocks(shape, sharing, "feed_forward")
        self.final_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.attention_recipes = Recipes(shape, sharing, "attention")
        self.feed_forward_recipes = Recipes(shape, sharing, "feed_forward")
        self.attention_gains = own_gains(shape, sharing, "attention")
        self.feed_forward_gains = own_gains(shape, sharing, "feed_forward")
        self.expansion = _matrix(shape.width, width, sharing.embedding.width is not None)
        untied = sharing.embedding.head == "untied"
        self.head_embedding = _matrix(shape.vocabulary, width, untied)
        self.head_expansion = _matrix(shape.width, width, untied and self.expansion is not None)
        self.depth_embedding = _matrix(sharing.depth, shape.width, sharing.depth_embedding)
        self.injection = _matrix(shape.width, 2 * shape.width, sharing.injection == "linear")
        self.lanes = Lanes(sharing.depth, sharing.lanes) if sharing.lanes > 1 else None
        self._loop_starts = frozenset(sharing.loop_starts if sharing.injection != "none" else ())
        self._rotary_table: Tensor | None = None  # no buffer: a buffer would be rounded to bf16 with the weights

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations."""
        return self._compute_dtype or self.embedding.dtype

    def compile_depths(self, backend: str = "inductor", repeatable: bool = True) -> None:
        """Compile what a depth and the loss do, for training: one depth's code serves all depths of one shape.

        A process compiles a shape once, whatever models of it come after; inductor's cache on disk serves the next.
        Where gradients need not be `repeatable` torch chooses how attention is computed.
        """
        self._flexible = repeatable and attention.is_for(self.shape, self.device, self.dtype)
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES
        # looked into, torch 2.11 would make its gradients zero in fp32
        torch.compiler.allow_in_graph(turned)  # type: ignore[no-untyped-call]
        known = {f"{turned.__module__}.{turned.__name__}": code_digest(f"{turned.__module__}:{turned.__name__}")}
        torch._inductor.config.unsafe_marked_cacheable_functions = known  # so that the cache takes graphs with it
        self._run_depth = torch.compile(run_depth, fullgraph=True, dynamic=False, backend=backend)
        self._slopes = torch.compile(slopes, fullgraph=True, dynamic=False, backend=backend)

    def initialise(self, seed: int) -> Decoder:
        """Draw every weight from `seed` and the weight's name alone; returns the model.

        Drawn on the CPU in fp32, so that every device starts the same, and so do the blocks that two arms both
        have. Matrices are N(0, 0.02); those that write to the residual stream are divided by sqrt(2 x depth). Deltas
        start as `Sharing` says, depth embeddings at zero, a linear injection as the additive one, lanes as one stream.
        """

        def deviation(name: str, size: tuple[int, ...]) -> float:
            if name.endswith("expansion"):
                return float(size[1] ** -0.5)  # what it makes of an embedding is as long as the embedding
            writes = name.endswith(("output.weight", "down.weight"))
            return INITIAL_DEVIATION / (2 * self.sharing.depth) ** 0.5 if writes else INITIAL_DEVIATION

        def drawn(name: str, size: tuple[int, ...]) -> Tensor:
            return draw(seed, name, size, deviation(name, size))

        with torch.no_grad(), drawers() as pool:
            drawing = []
            for name, parameter in self.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(1)
                else:
                    drawing += draw_into(parameter, seed, name, deviation(name, tuple(parameter.shape)), pool)
            for piece in drawing:
                piece.result()
            self.attention_recipes.start(self.attention_blocks, drawn, pool)
            self.feed_forward_recipes.start(self.feed_forward_blocks, drawn, pool)
            if self.lanes is not None:
                self.lanes.start()
            if self.depth_embedding is not None:
                self.depth_embedding.zero_()
            if self.injection is not None:
                self.injection.copy_(torch.eye(self.shape.width).repeat(1, 2))
        return self

    def decayed(self) -> list[nn.Parameter]:
        """What weight decay pulls to zero: matrices and low-rank factors, each stored one once.

        Gains, diagonals, coefficients, depth embeddings, the injection and lanes' connections, whose neutral value is
        not zero or which are no matrices, are left alone.
        """
        spared = (".diagonal.", ".coefficients.", "depth_embedding", "injection", "lanes.")
        return [p for name, p in self.named_parameters() if p.dim() > 1 and not any(part in name for part in spared)]

    def caches(self, batch: int, capacity: int) -> Caches:
        """Empty caches for `batch` rows of up to `capacity` tokens, on this model's device, in its precision."""
        return Caches(self.shape, self.sharing.cache_slots, batch, capacity, self.device, self.dtype)

    def weights(self, merged: bool = True) -> dict[str, list[Weights]]:
        """The matrices of every depth by kind and name, made once for a pass."""
        return {
            "attention": self.attention_recipes.weights(self.attention_blocks, merged),
            "feed_forward": self.feed_forward_recipes.weights(self.feed_forward_blocks, merged),
        }

    def _rotary(self, positions: Tensor) -> Tensor:
        if self._rotary_table is None or self._rotary_table.device != positions.device:
            with torch.inference_mode(False):  # training may use it later
                self._rotary_table = rotary_table(self.shape, positions.device)
        return self._rotary_table[:, positions][:, :, :, None]

    def _sub_layer(self, kind: Kind, depth: int, weights: dict[str, list[Weights]], rows: int) -> SubLayer:
        own, blocks = getattr(self, f"{kind}_gains"), getattr(self, f"{kind}_blocks")
        block: Block = own[depth] if own else blocks[self.sharing.schedule(kind)[depth]]
        lanes = None if self.lanes is None else self.lanes.at(depth, KINDS.index(kind))
        return SubLayer(block.gains(), weights[kind][depth], lanes, self._kept(depth, rows))

    def _kept(self, depth: int, rows: int) -> Tensor | None:
        """Which rows' sub-layer at this depth is kept, [rows, 1, 1]."""
        if not (self.training and self.stochastic_depth):
            return None
        rate = 1 - self.stochastic_depth * (depth + 1) / self.sharing.depth
        return torch.empty(rows, 1, 1, device=self.device, dtype=self.dtype).bernoulli_(rate) / rate

    def hidden(self, tokens: Tensor, caches: Caches | None = None) -> Tensor:
        """Final hidden states [B, T, width] of `tokens` [B, T], which follow what the caches hold.

        A model whose loops reuse the last loop's keys and values reads token by token when it is not training: no
        other order has them.
        """
        if caches is None and self.sharing.kv == "last" and not self.training:
            caches = self.caches(*tokens.shape)
            return torch.cat(
                [self.hidden(token, caches) for token in tokens.tensor_split(tokens.shape[1], dim=1)], dim=1
            )
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if caches is not None:
            positions = caches.begin(tokens.shape[1])
            caches.weights = weights = caches.weights or self.weights(merged=False)
        else:
            weights = self.weights()
        hidden = F.embedding(tokens, self.embedding).to(self.dtype)
        if self.expansion is not None:
            hidden = F.linear(hidden, self.expansion.to(self.dtype))
        if not self.looping and torch.is_grad_enabled():
            hidden = hidden + self._touch()
        rotary = self._rotary(positions)
        if self.lanes is not None:
            hidden = hidden.repeat(self.sharing.lanes, 1, 1, 1)
        entered: Tensor | None = None  # what entered the first loop
        flexible = self._flexible and caches is None
        causal = attention.causal(tokens.shape[1], self.shape.head_width, tokens.device) if flexible else None
        schedule = self.sharing.schedule("attention")
        kept: dict[int, Seen] = {}  # keys and values of the first depth that reads each attention block
        for depth in range(self.sharing.depth) if self.looping else self.sharing.plain_depths:
            if depth in self._loop_starts:
                hidden, entered = (hidden, hidden) if entered is None else (self._inject(hidden, entered), entered)
            if self.depth_embedding is not None:
                hidden = hidden + self.depth_embedding[depth].to(self.dtype)
            block = schedule[depth]
            parts = [self._sub_layer(kind, depth, weights, len(tokens)) for kind in KINDS]
            dropout = self.dropout if self.training else 0.0
            seen, reused = kept.get(block), self.sharing.kv == "first"
            arguments = (hidden, parts[0], parts[1], rotary, self.shape.head_width, dropout, seen, reused, causal)
            if caches is not None:
                hidden, seen = run_depth(*arguments, caches.at(depth))
            elif self.activation_checkpointing and torch.is_grad_enabled():
                # re-entrant checkpointing crashes DeepSpeed when one block is used several times
                draws = bool(dropout)
                hidden, seen = checkpoint(self._run_depth, *arguments, use_reentrant=False, preserve_rng_state=draws)
            else:
                hidden, seen = self._run_depth(*arguments)
            if reused:
                kept[block] = seen
        if caches is not None:
            caches.end()
        return normed(hidden if self.lanes is None else hidden.sum(dim=0), self.final_norm.weight)

    def _touch(self) -> Tensor:
        """Zero, computed from what waits for the loop: optimizers differ in what they do with no gradient at all."""
        waiting = [self.injection] if self.injection is not None else []
        for kind in KINDS:
            own = getattr(self, f"{kind}_gains")
            for depth in set(range(len(own))) - set(self.sharing.plain_depths):
                waiting += own[depth].parameters()
        return sum((0 * parameter.sum() for parameter in waiting), torch.zeros((), device=self.device)).to(self.dtype)

    def _inject(self, hidden: Tensor, entered: Tensor) -> Tensor:
        if self.injection is None:
            return hidden + entered
        return F.linear(torch.cat((hidden, entered), dim=-1), self.injection.to(self.dtype))

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states as wide as the head's matrix [..., E], and that matrix [vocabulary, E]."""
        tied = self.head_embedding is None
        expansion = self.expansion if tied else self.head_expansion
        if expansion is not None:
            hidden = F.linear(hidden, expansion.t().to(self.dtype))
        return hidden, self.embedding if self.head_embedding is None else self.head_embedding

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        hidden, matrix = self._head(hidden)
        return F.linear(hidden, matrix.to(self.dtype))

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
        if targets is None:
            return self.head(hidden[:, -1:] if last_only else hidden)
        hidden, matrix = self._head(hidden)
        return head_loss(hidden.flatten(0, 1), matrix, targets.flatten(), self._slopes)


def _matrix(outputs: int, inputs: int, asked: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(outputs, inputs)) if asked else None
