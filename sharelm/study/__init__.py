"""What is asked: one frozen pydantic tree read from TOML, and the trials it expands into."""

from sharelm.study.arm import Arm
from sharelm.study.load import load_study
from sharelm.study.plan import Comparison, Measured, Plan, Trial, expand, plan_from_tree, timed_pairs
from sharelm.study.proxies import proxied, proxies
from sharelm.study.tree import Study
from sharelm.study.tune import Tried, Tuning, tuning
from sharelm.study.twins import Speeds

__all__ = [
    "Arm",
    "Comparison",
    "Measured",
    "Plan",
    "Speeds",
    "Study",
    "Trial",
    "Tried",
    "Tuning",
    "expand",
    "load_study",
    "plan_from_tree",
    "proxied",
    "proxies",
    "timed_pairs",
    "tuning",
]
