"""What attention and products cost by themselves on the GPU: `python -m benchmarks.kernels [--shapes NAME ...]`.

Attention by each of torch's kernels and by the one that trials are trained with: milliseconds forward, and with its
gradients, and whether these have the same bits twice. A feed-forward product (forward, and both gradients) in bf16 and
in fp8 (tensor-wise scales), and the casts that fp8 needs: both layouts of the input, of the slopes and of the matrix.
All is replayed as CUDA graphs, so that no kernel waits for the host. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.plain import DEVICE, Setting, call_seconds
from benchmarks.runs import SETTINGS
from sharelm.model.attention import FlexCausalAttention, flex_causal_attention
from sharelm.training.engine import repeat_to_the_bit

LARGEST_FP8 = 448.0  # of e4m3
KERNELS = {  # torch's, and whether its sums are to be in one order
    "FlashAttention-2, in order": (SDPBackend.FLASH_ATTENTION, True),
    "FlashAttention-2": (SDPBackend.FLASH_ATTENTION, False),
    "cuDNN": (SDPBackend.CUDNN_ATTENTION, False),
    "memory-efficient, in order": (SDPBackend.EFFICIENT_ATTENTION, True),
}


def milliseconds(call: Callable[[], Any]) -> float:
    """The mean time of a call, replayed."""
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        call()  # compiled and loaded before it is captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return call_seconds(graph.replay) * 1e3


def attention_rows(name: str, setting: Setting) -> list[dict[str, Any]]:
    """Every kernel at this setting's batch, heads and context."""
    shape = setting.model
    size = (setting.sequences, shape.context, shape.heads, shape.head_width)
    query, key, value, slope = (
        torch.randn(size, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4)
    )
    for part in (query, key, value):
        part.requires_grad_()

    def row(kernel: str, run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Any]:
        def gradients() -> tuple[Tensor, ...]:
            return torch.autograd.grad(run(query, key, value), (query, key, value), slope)

        same = all(torch.equal(one, other) for one, other in zip(gradients(), gradients(), strict=True))
        forward, both = milliseconds(lambda: run(query, key, value)), milliseconds(gradients)
        return {"shape": name, "kernel": kernel, "forward": forward, "both": both, "same_bits": same}

    rows = []
    for kernel, (backend, ordered) in KERNELS.items():
        repeat_to_the_bit(ordered)
        with sdpa_kernel(backend):
            rows.append(row(kernel, lambda *parts: F.scaled_dot_product_attention(*parts, is_causal=True)))
    repeat_to_the_bit()
    ours = flex_causal_attention(shape.context, shape.head_width, query.device)
    for kernel, look in (
        ("FlexAttention, torch's choice", FlexCausalAttention(ours.mask, {})),
        ("FlexAttention, ours", ours),
    ):
        torch._dynamo.reset()
        rows.append(row(kernel, torch.compile(look, fullgraph=True, dynamic=False)))
    return rows


@torch.compile(dynamic=False)
def cast(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`values` in fp8 and its transpose, each row after row, and what to multiply them by."""
    scale = values.abs().amax().float().clamp(min=1e-12) / LARGEST_FP8
    small = (values.float() / scale).to(torch.float8_e4m3fn)
    return small, small.t().contiguous(), scale


def product_row(name: str, setting: Setting) -> dict[str, Any]:
    """A feed-forward product and its two gradients."""
    torch._dynamo.reset()
    shape = setting.model
    tokens = setting.sequences * shape.context
    sizes = ((tokens, shape.width), (shape.feed_forward, shape.width), (tokens, shape.feed_forward))
    x, matrix, slope = (torch.randn(size, device=DEVICE, dtype=torch.bfloat16) for size in sizes)
    wide = [milliseconds(lambda: x @ matrix.t()), milliseconds(lambda: slope @ matrix)]
    wide.append(milliseconds(lambda: slope.t() @ x))
    (x8, x8t, xs), (m8, m8t, ms), (s8, s8t, ss) = (cast(part) for part in (x, matrix, slope))

    def product(one: Tensor, other: Tensor, scales: tuple[Tensor, Tensor], fast: bool) -> float:
        return milliseconds(
            lambda: torch._scaled_mm(one, other.t(), *scales, out_dtype=torch.bfloat16, use_fast_accum=fast)
        )

    small = [product(x8, m8, (xs, ms), True), product(s8, m8t, (ss, ms), False), product(s8t, x8t, (ss, xs), False)]
    casts = [milliseconds(lambda part=part: cast(part)) for part in (x, slope, matrix)]  # type: ignore[misc]
    return {"shape": name, "bf16": wide, "fp8": small, "casts": casts}


def main() -> None:
    """Measure these shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SETTINGS), default=["124M", "355M", "study"])
    options = parser.parse_args()
    torch._dynamo.config.recompile_limit = 64
    attentions, products = [], []
    print(f"{'attention':10} {'kernel':32} {'forward ms':>10} {'and back':>10} {'same bits':>10}")
    for name in options.shapes:
        for row in attention_rows(name, SETTINGS[name]):
            attentions.append(row)
            figures = f"{row['forward']:10.3f} {row['both']:10.3f} {row['same_bits']!s:>10}"
            print(f"{name:10} {row['kernel']:32} {figures}", flush=True)
    print(f"{'product':10} {'bf16 ms':>10} {'fp8':>10} {'casts':>10}")
    for name in options.shapes:
        products.append(product_row(name, SETTINGS[name]))
        print(f"{name:10} " + " ".join(f"{sum(products[-1][kind]):10.3f}" for kind in ("bf16", "fp8", "casts")))
    card = torch.cuda.get_device_name()
    print(json.dumps({"benchmark": "kernels", "device": card, "attention": attentions, "products": products}))


if __name__ == "__main__":
    main()
