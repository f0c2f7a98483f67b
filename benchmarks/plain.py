"""Peers as users write them: plain loops and transformers' Trainer, on random tokens, with no layer of the project's.

Qwen3's layers are what the project's models have; the hand-written GPT-2 needs about the same FLOPs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharelm.sharing import ModelShape

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
PRECISION = "bf16" if GPU else "fp32"
WARM_UP, TIMED = 5, 20
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """A model's sizes and the sequences of a step."""

    model: ModelShape
    depth: int
    sequences: int


class RandomRows:
    """Packed rows in which a token says much about the next, so that there is something to learn."""

    def __init__(self, shape: ModelShape, rows: int = 2000) -> None:
        random = np.random.default_rng(0)
        steps = random.integers(0, 8, (rows, shape.context + 1))
        self._rows = ((np.cumsum(steps, axis=1) * 37 + random.integers(0, 64, (rows, 1))) % shape.vocabulary).astype(
            np.int64
        )

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Any) -> Any:
        """These rows."""
        return self._rows[indices]


def batch_of(setting: Setting) -> Tensor:
    """A step's rows of tokens, on the device."""
    return torch.from_numpy(RandomRows(setting.model, setting.sequences).batch(slice(None))).to(DEVICE)


def synchronise() -> None:
    """Wait for the GPU."""
    if GPU:
        torch.cuda.synchronize()


def mean_seconds(step: Callable[[int], Any], numbers: range) -> float:
    """Seconds of a step, the mean over the steps of these numbers."""
    synchronise()
    started = time.perf_counter()
    for number in numbers:
        step(number)
    synchronise()
    return (time.perf_counter() - started) / len(numbers)


def call_seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call, the mean over some calls after a warm-up."""
    for _ in range(WARM_UP):
        call()
    return mean_seconds(lambda _: call(), range(TIMED))


def timed(step: Callable[[int], None], tokens: int, built: float) -> dict[str, Any]:
    """Tokens a second over some steps after a warm-up, peak memory, and seconds from `built` to the end of step one.

    The peak is counted from the start: what a captured graph works in is not allocated again when it is replayed.
    """
    step(0)
    synchronise()
    first = time.perf_counter() - built
    for number in range(1, WARM_UP):
        step(number)
    seconds = mean_seconds(step, range(WARM_UP, WARM_UP + TIMED))
    peak = torch.cuda.max_memory_allocated() if GPU else 0
    return {"tokens_per_second": tokens / seconds, "peak_bytes": peak, "first_step_seconds": first}


def qwen3(setting: Setting) -> Any:
    """transformers' model of these sizes, in fp32 weights."""
    import transformers

    shape = setting.model
    config = transformers.Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=setting.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return transformers.Qwen3ForCausalLM(config).to(DEVICE)


def plain(setting: Setting, model: nn.Module, logits_of: Logits, compiled: bool, built: float) -> dict[str, Any]:
    """A plain loop: autocast, whole logits in fp32, fused AdamW; model and loss compiled as one."""
    shape = setting.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=GPU)
    batch = batch_of(setting)

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(tokens).float().flatten(0, 1), targets.flatten())

    run = torch.compile(loss_of) if compiled else loss_of

    def step(_: int) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=GPU):
            loss = run(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return timed(step, setting.sequences * shape.context, built)


def plain_qwen3(setting: Setting, compiled: bool) -> dict[str, Any]:
    """transformers' model in a plain loop."""
    built = time.perf_counter()
    model = qwen3(setting)
    return plain(setting, model, lambda tokens: model(input_ids=tokens).logits, compiled, built)


def plain_gpt2(setting: Setting) -> dict[str, Any]:
    """A GPT-2 written by hand in a plain loop, compiled."""
    built = time.perf_counter()
    model = GPT2(setting.model, setting.depth).to(DEVICE)
    return plain(setting, model, model, True, built)


def trainer(setting: Setting) -> dict[str, Any]:
    """transformers' Trainer at the same batch, its defaults but for bf16 and the fused optimizer."""
    import transformers

    built, shape = time.perf_counter(), setting.model
    rows = RandomRows(shape).batch(slice(None))
    data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in torch.from_numpy(rows)]
    moments: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if len(moments) in (0, WARM_UP - 1, WARM_UP + TIMED - 1):
                synchronise()
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.sequences,
            max_steps=WARM_UP + TIMED,
            bf16=GPU,
            use_cpu=not GPU,
            optim="adamw_torch_fused" if GPU else "adamw_torch",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        transformers.Trainer(qwen3(setting), arguments, train_dataset=data, callbacks=[Clock()]).train()
    seconds = moments[WARM_UP + TIMED - 1] - moments[WARM_UP - 1]
    return {
        "tokens_per_second": setting.sequences * shape.context * TIMED / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if GPU else 0,
        "first_step_seconds": moments[0] - built,
    }


class Layer(nn.Module):
    """LayerNorm, causal attention, LayerNorm, GELU feed-forward of four widths."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden` [B, T, width] after both sub-layers."""
        parts = self.attention(self.norms[0](hidden)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.output(mixed.transpose(1, 2).flatten(2))
        changed: Tensor = hidden + self.down(F.gelu(self.up(self.norms[1](hidden)), approximate="tanh"))
        return changed


class GPT2(nn.Module):
    """Learned positions, a head tied to the embedding; gives whole logits [B, T, vocabulary]."""

    def __init__(self, shape: ModelShape, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.layers = nn.ModuleList(Layer(shape.width, shape.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of `tokens` [B, T]."""
        hidden = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            hidden = layer(hidden)
        return F.linear(self.norm(hidden), self.tokens.weight)
