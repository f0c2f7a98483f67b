"""DeepSpeed with every setting given: DeepSpeed chooses what it is not given (it clips gradients at 1.0)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharelm.closed_form.memory import BUCKET
from sharelm.errors import ShareLMError
from sharelm.model import Decoder
from sharelm.study.training import Training
from sharelm.training.checkpoint import memory_checkpoint_engine
from sharelm.training.muon import MuonWithAdamW, block_matrices

_NO_LIMIT = 10**15


@cache
def load_deepspeed(device: torch.device) -> Any:
    """The deepspeed module, ready for this device.

    On a CPU DeepSpeed would compile a shared-memory operator at start, which needs a C++ compiler and seconds; gloo
    does the same work. Declaring that no operator is compatible skips the build and the probing.

    Python's garbage collector is off while the modules load and never visits them later, which saves time. It never
    visits any other object that exists by then either: call this before building a model.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    compiler = ("deepspeed.compile.backend", "torch._inductor.compile_fx") if device.type == "cuda" else ()
    gc.disable()
    try:
        import deepspeed

        for used_later in ("torch._dynamo", *compiler):
            import_module(used_later)
        gc.freeze()
    finally:
        gc.enable()
    deepspeed.logger.setLevel("WARNING")
    if device.type == "cpu":
        vars(deepspeed.ops)["__compatible_ops__"] = {}
    return deepspeed


def repeat_to_the_bit(wanted: bool = True) -> None:
    """Allow only kernels that add in a fixed order, so that a run on the same kind of device gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def deepspeed_config(training: Training, context: int, world: int, precision: str) -> dict[str, Any]:
    """The whole DeepSpeed configuration of a trial; nothing that matters is left to a default.

    At stage 0 weights stay in fp32 for torch's own fused AdamW, and the model computes in `precision` by itself:
    DeepSpeed's bf16 takes an unfused optimizer there, whose weights are off by 1e-2. `take_step` clips at stage 0,
    because DeepSpeed does not report the norm there.
    """
    sequences = training.tokens_per_step // context
    per_pass = training.sequences_per_pass or sequences // world
    return {
        "train_batch_size": sequences,
        "train_micro_batch_size_per_gpu": per_pass,
        "gradient_accumulation_steps": sequences // world // per_pass,
        "gradient_clipping": training.gradient_clip if training.stage else 0.0,
        "prescale_gradients": False,
        # the check reads every gradient singly (a fifth of a small model's step) and skips a bad step without saying so
        "bf16": {"enabled": precision == "bf16" and training.stage > 0, "check_grad_overflow": False},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": training.stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "offload_optimizer": {"device": "cpu" if training.offload_optimizer else "none", "pin_memory": True},
            # stage 3: every weight is scattered, and the whole model gathered once for a pass
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
            "sub_group_size": _NO_LIMIT,  # a limit would cut other groups for another number of workers
            "stage3_max_live_parameters": _NO_LIMIT,
            "stage3_max_reuse_distance": _NO_LIMIT,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},  # it would wait for the GPU in every step
    }


def decayed_parameters(model: Decoder) -> list[nn.Parameter]:
    """The parameters that weight decay pulls to zero: matrices and low-rank factors, each stored one once.

    Norm gains, diagonals, coefficients, depth embeddings, the injection and hyper-connections are left out: their
    neutral value is not zero, or they are no matrices.
    """
    spared = (".diagonal.", ".coefficients.", "depth_embedding", "injection", "hyper_connections.")
    return [p for name, p in model.named_parameters() if p.dim() > 1 and not any(part in name for part in spared)]


def build_optimizer(model: Decoder, training: Training, device: torch.device) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices of blocks and AdamW for the rest. Weight decay is on matrices only.

    A shared matrix is one parameter and decays once. Muon (Jordan 2024) steps are scaled to the size of AdamW's (Liu
    et al., arXiv 2502.16982), so that one learning rate serves both.
    """
    muon = block_matrices(model) if training.optimizer == "muon" else []
    taken = {id(p) for p in muon}
    decayed = [p for p in decayed_parameters(model) if id(p) not in taken]
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
    if training.stage == 3:
        # The decoder reads its blocks' weights without calling the blocks, whose own hooks would gather them.
        for parameter in model.parameters():
            deepspeed.zero.register_external_parameter(model, parameter)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.checkpoint_engine = memory_checkpoint_engine()
    if training.stage == 3:
        _track_unused(engine)
    if training.stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # it would copy every gradient twice
    return engine


def _track_unused(engine: Any) -> None:
    """Keep the names of the parameters that have had no gradient in this step in `engine.unused`."""
    engine.unused = {name for name, _ in engine.module.named_parameters()}
    for name, parameter in engine.module.named_parameters():
        parameter.register_hook(lambda _, name=name: engine.unused.discard(name))


def _raise_if_unused(engine: Any) -> None:
    """Raise `ShareLMError` where a step did not use a parameter: ZeRO-3 would apply its last gradient again."""
    if engine.unused:
        raise ShareLMError(
            f"ZeRO stage 3 would apply an old gradient to {min(engine.unused)}, which this step does not use; "
            "set training.zero_stage to 0, 1 or 2"
        )
    engine.unused.update(name for name, _ in engine.module.named_parameters())


@contextmanager
def gathered(model: Decoder, training: Training) -> Iterator[None]:
    """Gather the whole weights on every rank, to read. Every rank must enter."""
    if training.stage < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the learning rate of every parameter group, also where ZeRO wraps the optimizer."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def take_step(engine: Any, training: Training) -> Tensor:
    """Clip the gradients, which must be complete, and step the optimizer; returns their global norm before clipping.

    ZeRO reports the norm it clipped by, or -1 where it is not finite, which is NaN here.
    """
    if training.stage == 0:
        parameters = [p for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if training.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, training.gradient_clip, norm, foreach=True)
        engine.step()
        return norm
    if training.stage == 3:
        _raise_if_unused(engine)
    engine.step()
    known = float(engine.get_global_grad_norm())
    return torch.tensor(known if known >= 0 else float("nan"))
