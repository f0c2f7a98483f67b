"""What is asked: one frozen pydantic tree read from TOML, and the trials it expands into."""

from sharelm.study.arm import Arm
from sharelm.study.load import load_study
from sharelm.study.tree import Speeds, Study
from sharelm.study.trials import Comparison, Trial, arms, comparisons, timed_pairs, trials

__all__ = [
    "Arm",
    "Comparison",
    "Speeds",
    "Study",
    "Trial",
    "arms",
    "comparisons",
    "load_study",
    "timed_pairs",
    "trials",
]
