"""ZeRO's optimizer files, partitioned again for another number of workers.

ZeRO concatenates the fp32 weights of a parameter group, and each of AdamW's moments, into one vector. Stages 1 and 2
pad the vector to a multiple of the workers and give each worker an equal part. Stage 3 pads every parameter and gives
each worker the concatenation of its parts. The order of parameters is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

# what DeepSpeed calls the inner optimizer's state and the fp32 weights, at stages 1 and 2 and at stage 3
_CUT_WHOLE = ("base_optimizer_state", "single_partition_of_fp32_groups")
_CUT_BY_PARAMETER = ("optimizer_state_dict", "fp32_flat_groups")


class Piece(NamedTuple):
    """A vector that is partitioned by itself: its elements, and those of one part as written and as wanted."""

    numel: int
    written: int
    wanted: int


def recut(shards: list[Tensor], pieces: list[Piece], rank: int, world: int) -> Tensor:
    """The vector of worker `rank` of `world`, from the vectors `shards` of the writers, in order."""
    mine, start = [], 0
    for piece in pieces:
        whole = torch.cat([shard.narrow(0, start, piece.written) for shard in shards])[
            : piece.numel
        ]  # padding is at the end
        whole = pad(whole, (0, piece.wanted * world - piece.numel))
        mine.append(whole.narrow(0, rank * piece.wanted, piece.wanted))
        start += piece.written
    return torch.cat(mine)


def _pieces(engine: Any, writers: int, written: list[int]) -> list[list[Piece]]:
    """The pieces of every parameter group; `written` has the elements of a writer's vector of each group."""
    optimizer, world = engine.optimizer, dist.get_world_size()
    if engine.zero_optimization_stage() == 3:
        numels = [[p.ds_numel for p in group] for group in optimizer.fp16_groups]
        return [[Piece(numel, -(-numel // writers), -(-numel // world)) for numel in group] for group in numels]
    wanted = [part.numel() for part in optimizer.single_partition_of_fp32_groups]
    sums = [sum(p.numel() for p in group) for group in optimizer.bit16_groups]
    return [[Piece(*sizes)] for sizes in zip(sums, written, wanted, strict=True)]


def reshard(engine: Any, folder: Path, writers: int, load: Callable[[Path], Any]) -> None:
    """Replace the files of a checkpoint of `writers` workers by the files that this worker's engine reads.

    Args:
        engine: an engine of ZeRO stage 1, 2 or 3.
        folder: where DeepSpeed's files are. They may be links; what those point to is left alone.
        writers: the number of workers that wrote the files.
        load: reads a file without running code from it.
    """
    names = engine._get_mp_rank_zero_checkpoint_names(folder.parent, folder.name, 0, writers, engine.bfloat16_enabled())
    parts = [load(Path(name)) for name in names]
    states = [part["optimizer_state_dict"] for part in parts]
    inner, fp32 = _CUT_BY_PARAMETER if engine.zero_optimization_stage() == 3 else _CUT_WHOLE
    rank, world = dist.get_rank(), dist.get_world_size()
    for group, pieces in enumerate(_pieces(engine, writers, [vector.numel() for vector in states[0][fp32]])):
        moments = [state[inner]["state"][group] for state in states]
        for key in ("exp_avg", "exp_avg_sq"):
            moments[0][key] = recut([each[key] for each in moments], pieces, rank, world)
        states[0][fp32][group] = recut([state[fp32][group] for state in states], pieces, rank, world)
    weights = load(min(folder.glob("*model_states.pt")))  # stage 3: a file a writer, all equal, without weights
    _replace(Path(engine._get_zero_ckpt_name(folder.parent, folder.name)), parts[0])
    _replace(Path(engine._get_ckpt_name(folder.parent, folder.name)), {**weights, "dp_world_size": world})


def _replace(path: Path, state: Any) -> None:
    """Save the state in place of a file or link."""
    path.unlink(missing_ok=True)
    torch.save(state, path)
