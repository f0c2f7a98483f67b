"""ZeRO's optimizer files of stages 1 and 2, cut anew for another number of workers.

ZeRO lays the fp32 weights of a parameter group, and each of AdamW's moments, end to end in one vector, pads it to a
multiple of the workers, and gives each its equal part. The vectors are the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad


def reshard(engine: Any, folder: Path, writers: int, load: Callable[[Path], Any]) -> None:
    """Replace the files of a checkpoint of `writers` workers by those that this worker of this engine would read.

    Args:
        engine: of ZeRO stage 1 or 2.
        folder: DeepSpeed's files, which may be links; what they point to is left alone.
        writers: how many workers wrote them.
        load: reads a file without running code from it.
    """
    names = engine._get_mp_rank_zero_checkpoint_names(folder.parent, folder.name, 0, writers, engine.bfloat16_enabled())
    parts = [load(Path(name)) for name in names]
    states = [part["optimizer_state_dict"] for part in parts]
    optimizer = engine.optimizer
    for group, parameters in enumerate(optimizer.bit16_groups):
        numel = sum(p.numel() for p in parameters)
        size = optimizer.single_partition_of_fp32_groups[group].numel()

        def mine(shards: list[Tensor], numel: int = numel, size: int = size) -> Tensor:
            whole = torch.cat(shards)[:numel]  # padding is at the end
            whole = pad(whole, (0, size * dist.get_world_size() - numel))
            return whole.narrow(0, dist.get_rank() * size, size).clone()

        first = states[0]["base_optimizer_state"]["state"][group]
        for key in ("exp_avg", "exp_avg_sq"):
            first[key] = mine([state["base_optimizer_state"]["state"][group][key] for state in states])
        fp32 = [state["single_partition_of_fp32_groups"] for state in states]
        fp32[0][group] = mine([groups[group] for groups in fp32])
    _replace(Path(engine._get_zero_ckpt_name(folder.parent, folder.name)), parts[0])
    weights = Path(engine._get_ckpt_name(folder.parent, folder.name))
    _replace(weights, {**load(weights), "dp_world_size": dist.get_world_size()})


def _replace(path: Path, state: Any) -> None:
    path.unlink(missing_ok=True)
    torch.save(state, path)
