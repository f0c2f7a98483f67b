"""What is asked: one frozen pydantic tree read from TOML, and the trials it expands into."""

from sharelm.study.load import load_study
from sharelm.study.tree import Study
from sharelm.study.trials import Arm, Comparison, Trial, arms, comparisons, trials

__all__ = ["Arm", "Comparison", "Study", "Trial", "arms", "comparisons", "load_study", "trials"]
