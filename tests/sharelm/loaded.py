"""What every rank of `tests.sharelm.distributed` needs and is slow to load."""

import torch

import sharelm.training.trial  # noqa: F401
from sharelm.training.engine import load_deepspeed

load_deepspeed(torch.device("cpu"))
