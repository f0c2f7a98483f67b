"""Which depth reads which weights: schedules, their constructors and closed-form footprints.

Sharing is data. A model of depth N reads, at each depth, one stored attention block and one stored
feed-forward block; two index lists (the *schedules*) say which. Nothing here imports a framework.
"""

from sharelm.sharing.footprint import Footprint, ModelShape, footprint
from sharelm.sharing.schedules import SCHEMES, Sharing, build_sharing

__all__ = ["SCHEMES", "Footprint", "ModelShape", "Sharing", "build_sharing", "footprint"]
