"""What is asked: one frozen pydantic tree read from TOML, and the trials it expands into."""

from sharelm.study.arm import Arm
from sharelm.study.load import load_study
from sharelm.study.proxies import proxied, proxies
from sharelm.study.tree import Speeds, Study
from sharelm.study.trials import Comparison, Trial, arms, comparisons, models, timed_pairs, trials
from sharelm.study.tune import Tried, Tuning, tuning

__all__ = [
    "Arm",
    "Comparison",
    "Speeds",
    "Study",
    "Trial",
    "Tried",
    "Tuning",
    "arms",
    "comparisons",
    "load_study",
    "models",
    "proxied",
    "proxies",
    "timed_pairs",
    "trials",
    "tuning",
]
