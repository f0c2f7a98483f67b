"""The decoder of a shape and a sharing. It reads the sharing as a value and knows no scheme by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharelm.model import attention
from sharelm.model.blocks import NORM_EPSILON, Block, RotaryTable, depth_norm_gains, rms_norm, stored_blocks
from sharelm.model.caches import Caches, KeysValues
from sharelm.model.compiling import AS_WRITTEN, compiled_functions
from sharelm.model.depth import SubLayer, run_depth
from sharelm.model.depth_matrices import DepthMatrices, Weights
from sharelm.model.hyper_connections import HyperConnections
from sharelm.model.initial import InitialWeights, drawing_pool
from sharelm.model.loss import head_loss
from sharelm.sharing import KINDS, ModelShape, Sharing
from sharelm.sharing.checks import check_shape
from sharelm.sharing.shape import Kind


class Decoder(nn.Module):
    """A language model whose depths read stored blocks by schedule, and deltas of their own.

    Each stored parameter is registered once, however many depths read it. `looping` is False while a late loop has not
    switched on. Raises `InputError` where the shape cannot build the sharing.

    Args:
        shape: the sizes.
        sharing: what each depth reads.
        activation_checkpointing: keep only each depth's input for the backward pass and run the depth again there.
        dropout: the rate, in training, at which entries of what a sub-layer adds are dropped (arXiv 1207.0580).
        stochastic_depth: the rate, in training, at which the last depth drops whole sub-layers of a sequence; it rises
            linearly to there (1603.09382). A dropped sub-layer is computed and masked, so that every step uses every
            parameter. Both rates' masks come from torch's generator.
        compute_dtype: the precision of activations, the weights' own if None.
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
        self._functions = AS_WRITTEN
        self.looping = True
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth
        self.shape = shape
        self.sharing = sharing
        self.activation_checkpointing = activation_checkpointing
        width = sharing.embedding_width(shape)
        # Initial weights are drawn from parameters' names: renaming an attribute below would change every result.
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, width))
        self.attention_blocks = stored_blocks(shape, sharing, "attention")
        self.feed_forward_blocks = stored_blocks(shape, sharing, "feed_forward")
        self.final_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.attention_recipes = DepthMatrices(shape, sharing, "attention")
        self.feed_forward_recipes = DepthMatrices(shape, sharing, "feed_forward")
        self.attention_gains = depth_norm_gains(shape, sharing, "attention")
        self.feed_forward_gains = depth_norm_gains(shape, sharing, "feed_forward")
        self.expansion = _optional_matrix(shape.width, width, sharing.embedding.width is not None)
        untied = sharing.embedding.head == "untied"
        self.head_embedding = _optional_matrix(shape.vocabulary, width, untied)
        self.head_expansion = _optional_matrix(shape.width, width, untied and self.expansion is not None)
        self.depth_embedding = _optional_matrix(sharing.depth, shape.width, sharing.depth_embedding)
        self.injection = _optional_matrix(shape.width, 2 * shape.width, sharing.injection == "linear")
        self.hyper_connections = HyperConnections(sharing.depth, sharing.streams) if sharing.streams > 1 else None
        self._loop_starts = frozenset(sharing.loop_starts if sharing.injection != "none" else ())
        self._rotary = RotaryTable(shape)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations."""
        return self._compute_dtype or self.embedding.dtype

    def compile_depths(self, backend: str = "inductor", repeatable: bool = True) -> None:
        """Compile what a training pass calls for every depth and for the loss.

        A process compiles a shape once for all its models; inductor's cache on disk serves other processes. Where
        gradients need not be `repeatable` torch chooses how attention is computed.
        """
        flex = repeatable and attention.is_supported(self.shape, self.device, self.dtype)
        self._functions = compiled_functions(backend, flex)

    def initialise(self, seed: int) -> Decoder:
        """Draw every weight from `seed` and the weight's name alone, as `InitialWeights` says; returns the model.

        Every device starts from the same bits, and so do the blocks that two arms both have. Deltas start as `Sharing`
        says, depth embeddings at zero, a linear injection as the additive one, and several streams as one.
        """
        initial = InitialWeights(seed, self.sharing.depth)
        with torch.no_grad(), drawing_pool() as pool:
            initial.fill(self.named_parameters(), pool)
            self.attention_recipes.start(self.attention_blocks, initial.draw, pool)
            self.feed_forward_recipes.start(self.feed_forward_blocks, initial.draw, pool)
            if self.hyper_connections is not None:
                self.hyper_connections.start_as_one_stream()
            if self.depth_embedding is not None:
                self.depth_embedding.zero_()
            if self.injection is not None:
                self.injection.copy_(torch.eye(self.shape.width).repeat(1, 2))
        return self

    def caches(self, batch: int, capacity: int) -> Caches:
        """Empty caches for `batch` rows of up to `capacity` tokens, on this model's device, in its precision."""
        return Caches(self.shape, self.sharing.cache_slots, batch, capacity, self.device, self.dtype)

    def weights(self, merged: bool = True) -> dict[str, list[Weights]]:
        """The matrices of every depth by kind and name, made once for a pass."""
        return {
            "attention": self.attention_recipes.weights(self.attention_blocks, merged),
            "feed_forward": self.feed_forward_recipes.weights(self.feed_forward_blocks, merged),
        }

    def _sub_layer(self, kind: Kind, depth: int, weights: dict[str, list[Weights]], rows: int) -> SubLayer:
        """What the sub-layer of this kind reads at this depth."""
        gains_of_depths, blocks = getattr(self, f"{kind}_gains"), getattr(self, f"{kind}_blocks")
        block: Block = gains_of_depths[depth] if gains_of_depths else blocks[self.sharing.schedule(kind)[depth]]
        streams = self.hyper_connections
        connections = None if streams is None else streams.at(depth, KINDS.index(kind))
        return SubLayer(block.norm_gains(), weights[kind][depth], connections, self._keep_scale(depth, rows))

    def _keep_scale(self, depth: int, rows: int) -> Tensor | None:
        """Stochastic depth's mask of each row at this depth, over the rate of being kept, [rows, 1, 1]."""
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
            by_token = tokens.tensor_split(tokens.shape[1], dim=1)
            return torch.cat([self.hidden(token, caches) for token in by_token], dim=1)
        if caches is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            weights = self.weights()
        else:
            positions = caches.begin(tokens.shape[1])
            caches.weights = weights = caches.weights or self.weights(merged=False)
        hidden = self._run_depths(self._embed(tokens), weights, self._rotary.at(positions), caches)
        if caches is not None:
            caches.end()
        return rms_norm(hidden, self.final_norm.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        """What enters the first depth [B, T, width] for `tokens` [B, T]."""
        hidden = F.embedding(tokens, self.embedding).to(self.dtype)
        if self.expansion is not None:
            hidden = F.linear(hidden, self.expansion.to(self.dtype))
        if not self.looping and torch.is_grad_enabled():
            hidden = hidden + self._zero_from_unused()
        return hidden

    def _zero_from_unused(self) -> Tensor:
        """Zero, computed from the parameters that no depth reads before a late loop switches on.

        They get gradients of zero so that every optimizer treats them alike: optimizers differ in what they do to a
        parameter without a gradient.
        """
        unused = [self.injection] if self.injection is not None else []
        for kind in KINDS:
            gains_of_depths = getattr(self, f"{kind}_gains")
            for depth in set(range(len(gains_of_depths))) - set(self.sharing.plain_depths):
                unused += gains_of_depths[depth].parameters()
        return sum((0 * parameter.sum() for parameter in unused), torch.zeros((), device=self.device)).to(self.dtype)

    def _run_depths(
        self, hidden: Tensor, weights: dict[str, list[Weights]], rotary: Tensor, caches: Caches | None
    ) -> Tensor:
        """`hidden` [B, T, width] after every depth."""
        rows, length = hidden.shape[:2]
        if self.hyper_connections is not None:
            hidden = hidden.repeat(self.sharing.streams, 1, 1, 1)
        uses_flex = self._functions.flex_attention and caches is None
        flex = attention.flex_causal_attention(length, self.shape.head_width, hidden.device) if uses_flex else None
        dropout = self.dropout if self.training else 0.0
        schedule, reuses = self.sharing.schedule("attention"), self.sharing.kv == "first"
        first: Tensor | None = None  # the input of the first loop
        computed: dict[int, KeysValues] = {}  # by attention block, where its first depth's are reused
        for depth in range(self.sharing.depth) if self.looping else self.sharing.plain_depths:
            if depth in self._loop_starts:
                hidden, first = (hidden, hidden) if first is None else (self._inject(hidden, first), first)
            if self.depth_embedding is not None:
                hidden = hidden + self.depth_embedding[depth].to(self.dtype)
            parts = [self._sub_layer(kind, depth, weights, rows) for kind in KINDS]
            keys_values = computed.get(schedule[depth])
            arguments = (hidden, parts[0], parts[1], rotary, self.shape.head_width, dropout, keys_values, reuses, flex)
            if caches is not None:
                hidden, keys_values = run_depth(*arguments, caches.at(depth))
            elif self.activation_checkpointing and torch.is_grad_enabled():
                # re-entrant checkpointing crashes DeepSpeed when one block is used several times
                draws, function = bool(dropout), self._functions.run_depth
                hidden, keys_values = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=draws)
            else:
                hidden, keys_values = self._functions.run_depth(*arguments)
            if reuses:
                computed[schedule[depth]] = keys_values
        return hidden if self.hyper_connections is None else hidden.sum(dim=0)

    def _inject(self, hidden: Tensor, first: Tensor) -> Tensor:
        """The input of a later loop, from what leaves the loop before and the input of the first one."""
        if self.injection is None:
            return hidden + first
        return F.linear(torch.cat((hidden, first), dim=-1), self.injection.to(self.dtype))

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
        return head_loss(hidden.flatten(0, 1), matrix, targets.flatten(), self._functions.loss_and_gradient)


def _optional_matrix(outputs: int, inputs: int, wanted: bool) -> nn.Parameter | None:
    """A matrix that is not drawn yet, or None where it is not wanted."""
    return nn.Parameter(torch.empty(outputs, inputs)) if wanted else None
