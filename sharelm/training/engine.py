"""DeepSpeed, with every setting said aloud: what it is silent about it decides by itself (it clips at 1.0)."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sharelm.model import Decoder
from sharelm.study.tree import Training
from sharelm.training.checkpoint import memory_checkpoint_engine
from sharelm.training.muon import MuonWithAdamW, block_matrices


def load_deepspeed(device: torch.device) -> Any:
    """The deepspeed module, ready for this device.

    On a CPU DeepSpeed would compile a shared-memory operator at start, which needs a C++ compiler and seconds; gloo
    does the same work. Saying beforehand that no operator is compatible skips the build and the probing.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed

    deepspeed.logger.setLevel("WARNING")
    if device.type == "cpu":
        vars(deepspeed.ops)["__compatible_ops__"] = {}
    return deepspeed


def repeat_to_the_bit(wanted: bool = True) -> None:
    """Only kernels that add in one order, so that a run on the same kind of device gives the same bits again."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def deepspeed_config(training: Training, context: int, world: int, precision: str) -> dict[str, Any]:
    """The whole DeepSpeed configuration of a trial; nothing that matters is left to a default.

    At stage 0 weights stay in fp32 for torch's own fused AdamW and the model computes in `precision` by itself:
    DeepSpeed's bf16 there takes an unfused optimizer that is off by 1e-2. The loop clips, for DeepSpeed tells no norm.
    """
    sequences = training.tokens_per_step // context
    per_pass = training.sequences_per_pass or sequences // world
    return {
        "train_batch_size": sequences,
        "train_micro_batch_size_per_gpu": per_pass,
        "gradient_accumulation_steps": sequences // world // per_pass,
        "gradient_clipping": training.gradient_clip if training.zero_stage else 0.0,
        "prescale_gradients": False,
        # the check looks at every gradient by itself (a fifth of a small model's step) and would skip a bad step unsaid
        "bf16": {"enabled": precision == "bf16" and training.zero_stage > 0, "check_grad_overflow": False},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": training.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},  # it would wait for the GPU in every step
    }


def build_optimizer(model: Decoder, training: Training, device: torch.device) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, a shared one once; or Muon for the matrices of blocks beside it.

    Muon (Jordan 2024) steps are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982), so that one learning
    rate serves both.
    """
    muon = block_matrices(model) if training.optimizer == "muon" else []
    taken = {id(p) for p in muon}
    decayed = [p for p in model.decayed() if id(p) not in taken]
    known = taken | {id(p) for p in decayed}
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": [p for p in model.parameters() if id(p) not in known], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=device.type == "cuda",
    )
    if not muon:
        return adamw
    matched = torch.optim.Muon(
        muon, lr=training.learning_rate, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return MuonWithAdamW(matched, adamw)


def build_engine(model: Decoder, training: Training, config: dict[str, Any], device: torch.device) -> Any:
    """A DeepSpeed engine over the process group that is already there."""
    deepspeed = load_deepspeed(device)
    deepspeed.init_distributed(dist_init_required=False)
    optimizer = build_optimizer(model, training, device)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.checkpoint_engine = memory_checkpoint_engine()
    if training.zero_stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # it would copy every gradient twice
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the rate of every parameter group, ZeRO's wrapper included."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def take_step(engine: Any, training: Training) -> Tensor:
    """Step the optimizer; the global gradient norm before clipping. Called where gradients are complete.

    ZeRO keeps the norm it clipped by, or -1 where that is not finite (NaN here).
    """
    if training.zero_stage == 0:
        parameters = [p for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if training.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, training.gradient_clip, norm, foreach=True)
        engine.step()
        return norm
    engine.step()
    known = float(engine.get_global_grad_norm())
    return torch.tensor(known if known >= 0 else float("nan"))
