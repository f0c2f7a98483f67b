"""Which depth reads which weights: schedules, degrees and their constructors.

Sharing is data. A model of depth N reads, at each depth, one stored attention block and one stored
feed-forward block; two index lists (the *schedules*) say which, and *degrees* (low-rank deltas, atoms, ties, ...) say
how far. Nothing here imports a framework.
"""

from sharelm.sharing.degrees import Atoms, Embedding, LowRank, SoftTying
from sharelm.sharing.schemes import SCHEMES, build_sharing
from sharelm.sharing.shape import KINDS, ModelShape
from sharelm.sharing.value import Sharing

__all__ = [
    "KINDS",
    "SCHEMES",
    "Atoms",
    "Embedding",
    "LowRank",
    "ModelShape",
    "Sharing",
    "SoftTying",
    "build_sharing",
]
