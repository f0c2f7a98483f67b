"""Two schedules with degrees of sharing on top of them, and what follows from them. Nothing is checked here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from sharelm.sharing.degrees import STRICT, Atoms, Embedding, LowRank, SoftTying
from sharelm.sharing.schedules import Schedule
from sharelm.sharing.shape import KINDS, Kind, ModelShape

# In one block: the matrix that is not stored, and the matrix it is the transpose of (HaLViT, HaLLM).
_TRANSPOSES = {"attention": {"value": "key", "output": "query"}, "feed_forward": {"down": "up"}}
_KEYS = ("key", "value", "key_norm")  # applied only by depths that compute keys and values of their own


@dataclass(frozen=True)
class Composition:
    """What each depth reads, and what it has of its own.

    Both schedules have one entry a depth: the stored block read there. Stored blocks are numbered 0..M-1 and
    every one is read at least once. A block read at two depths or more is *looped*. All else is off unless said:

    * `low_rank`, `diagonal` (kinds): deltas of each depth that reads a looped block; a diagonal delta adds d_i on
      the main diagonal of every matrix, square or not (ResidualTransformer, arXiv 2310.02489);
    * `atoms`: mixtures of the stored blocks in place of one of them;
    * `ties` (kinds): feed-forward down = up^T; attention value = key^T and output = query^T;
    * `norms`: the norm gains of looped blocks, shared or one set a depth;
    * `depth_embedding`: a vector of each depth is added to what enters it (Universal Transformer, 1807.03819);
    * `injection`: what entered the first loop is added to (or, through a matrix, mixed into) what enters every later
      one (Huginn, 2502.05171);
    * `streams`: there are this many residual streams, which each sub-layer of each depth reads, mixes and writes by
      weights of its own (static hyper-connections, 2409.19606);
    * `embedding`: the token embedding and the head;
    * `kv`: every depth its own keys and values (exact), or those of the `first` loop for all its later ones, in
      training too (Mixture-of-Recursions, 2507.10524), or one cache a block which in decoding holds the `last`
      loop's; training cannot do that side by side and is exact;
    * `soft`: the schedules only say which depths are pulled together; each keeps blocks of its own;
    * `late`: until this fraction of training only the first reading of every block runs, the plain stack.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    attention: Schedule
    feed_forward: Schedule
    low_rank: LowRank = field(default_factory=LowRank)
    diagonal: tuple[Kind, ...] = ()
    atoms: Atoms = field(default_factory=Atoms)
    ties: tuple[Kind, ...] = ()
    norms: Literal["shared", "per_depth"] = "shared"
    depth_embedding: bool = False
    injection: Literal["none", "additive", "linear"] = "none"
    streams: int = 1
    embedding: Embedding = field(default_factory=Embedding)
    kv: Literal["exact", "first", "last"] = "exact"
    late: float = 0.0
    soft: SoftTying = field(default_factory=SoftTying)

    def groups(self, kind: str) -> Schedule:
        """The schedule as given, which under soft tying groups the depths that are pulled together."""
        return self.attention if kind == "attention" else self.feed_forward

    def schedule(self, kind: str) -> Schedule:
        """The stored block of this kind that each depth reads: one of its own under soft tying."""
        return tuple(range(self.depth)) if self.soft.on else self.groups(kind)

    def blocks(self, kind: str) -> int:
        """Number of stored blocks of this kind."""
        return max(self.schedule(kind)) + 1

    @property
    def depth(self) -> int:
        """Number of depths N: how many attention (and feed-forward) applications a token passes."""
        return len(self.attention)

    @property
    def attention_blocks(self) -> int:
        """Number of stored attention blocks."""
        return self.blocks("attention")

    @property
    def feed_forward_blocks(self) -> int:
        """Number of stored feed-forward blocks."""
        return self.blocks("feed_forward")

    def looped_depths(self, kind: str) -> list[int]:
        """The depths that read a block which another depth reads too."""
        uses = Counter(self.schedule(kind))
        return [depth for depth, block in enumerate(self.schedule(kind)) if uses[block] > 1]

    def first_reading(self, depth: int) -> int:
        """The first depth that reads the attention block which this depth reads."""
        schedule = self.schedule("attention")
        return schedule.index(schedule[depth])

    def depths(self, kind: str, part: str) -> list[int]:
        """The depths that apply this matrix or norm gain: a depth that reuses keys and values skips theirs."""
        reused = kind == "attention" and self.kv == "first" and part in _KEYS
        return [depth for depth in range(self.depth) if not reused or self.first_reading(depth) == depth]

    def delta_depths(self, kind: str, matrix: str) -> list[int]:
        """The depths whose deltas of this matrix are stored."""
        looped = set(self.looped_depths(kind))
        return [depth for depth in self.depths(kind, matrix) if depth in looped]

    def tied(self, kind: str) -> dict[str, str]:
        """Matrices of this kind that are not stored, and the one in the same block whose transpose each is."""
        return _TRANSPOSES[kind] if kind in self.ties else {}

    def rank(self, kind: str) -> int:
        """Rank of this kind's deltas; 0 is none."""
        return self.low_rank.attention if kind == "attention" else self.low_rank.feed_forward

    def coefficients(self, kind: str) -> str:
        """How this kind mixes atoms: none, learned or fixed."""
        return self.atoms.attention if kind == "attention" else self.atoms.feed_forward

    def norm_gains_per_depth(self, kind: str) -> bool:
        """Whether every depth has norm gains of its own in place of its block's."""
        return self.norms == "per_depth" and bool(self.looped_depths(kind))

    @property
    def loop_starts(self) -> list[int]:
        """The depths at which loops begin, the first loop included: those that read the first looped block."""
        for kind in KINDS:
            looped = self.looped_depths(kind)
            if looped:
                schedule = self.schedule(kind)
                return [depth for depth in looped if schedule[depth] == schedule[looped[0]]]
        return []

    @property
    def plain_depths(self) -> list[int]:
        """The depths that run before a late loop switches on: the first reading of every block."""
        return [depth for depth in range(self.depth) if self.first_reading(depth) == depth]

    @property
    def cache_slots(self) -> tuple[int, ...]:
        """The key-value cache that each depth uses: its own, or one for its attention block."""
        return tuple(range(self.depth)) if self.kv == "exact" else self.schedule("attention")

    def embedding_width(self, shape: ModelShape) -> int:
        """Width E of the token embedding."""
        return self.embedding.width or shape.width
