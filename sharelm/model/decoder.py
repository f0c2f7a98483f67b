"""The decoder of a shape and a sharing. It reads the sharing as a value and knows no scheme by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharelm.model import attention
from sharelm.model.blocks import NORM_EPSILON, RotaryTable, depth_norm_gains, rms_norm, stored_blocks
from sharelm.model.caches import Caches
from sharelm.model.compiling import AS_WRITTEN, compiled_functions
from sharelm.model.depth import recomputed
from sharelm.model.depth_matrices import DepthMatrices, Weights
from sharelm.model.depths import Depths, Pass
from sharelm.model.hyper_connections import HyperConnections
from sharelm.model.initial import InitialWeights, drawing_pool
from sharelm.model.loss import head_loss
from sharelm.model.sub_layers import SubLayers
from sharelm.model.vocabulary import Vocabulary
from sharelm.sharing import ModelShape, Sharing
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
        sub_layers: dict[Kind, SubLayers] = {
            "attention": SubLayers(self.attention_blocks, self.attention_recipes, self.attention_gains),
            "feed_forward": SubLayers(self.feed_forward_blocks, self.feed_forward_recipes, self.feed_forward_gains),
        }
        self._depths = Depths(shape, sharing, sub_layers, self.hyper_connections)
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
            self._depths.start(initial.draw, pool)
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

    def weights(self, merged: bool = True) -> dict[Kind, list[Weights]]:
        """The matrices of every depth by kind and name, made once for a pass."""
        return self._depths.weights(merged)

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
        vocabulary = Vocabulary(self.embedding, self.expansion)
        # no name for what enters the first depth: it would be held until the last has run
        hidden = self._depths.run(vocabulary.vectors(tokens, self.dtype), self._pass(weights, positions, caches))
        if caches is not None:
            caches.end()
        return rms_norm(hidden, self.final_norm.weight)

    def _pass(self, weights: dict[Kind, list[Weights]], positions: Tensor, caches: Caches | None) -> Pass:
        """A pass over tokens at these positions [B or 1, T]."""
        functions = self._functions if caches is None else AS_WRITTEN
        run, flex, dropout = functions.run_depth, None, self.dropout if self.training else 0.0
        if functions.flex_attention:
            flex = attention.flex_causal_attention(positions.shape[1], self.shape.head_width, positions.device)
        if caches is None and self.activation_checkpointing and torch.is_grad_enabled():
            run = recomputed(run, draws=bool(dropout))
        return Pass(
            run_depth=run,
            weights=weights,
            rotary=self._rotary.at(positions),
            depth_embedding=self.depth_embedding,
            injection=self.injection,
            dropout=dropout,
            stochastic_depth=self.stochastic_depth if self.training else 0.0,
            flex=flex,
            caches=caches,
            looping=self.looping,
        )

    @property
    def _head(self) -> Vocabulary:
        """What the head reads: the embedding, unless it has a matrix of its own."""
        if self.head_embedding is None:
            return Vocabulary(self.embedding, self.expansion)
        return Vocabulary(self.head_embedding, self.head_expansion)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        return self._head.logits(hidden)

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
        head, loss_and_gradient = self._head, self._functions.loss_and_gradient
        hidden = head.narrowed(hidden)
        return head_loss(hidden.flatten(0, 1), head.matrix, targets.flatten(), loss_and_gradient)


def _optional_matrix(outputs: int, inputs: int, wanted: bool) -> nn.Parameter | None:
    """A matrix that is not drawn yet, or None where it is not wanted."""
    return nn.Parameter(torch.empty(outputs, inputs)) if wanted else None
