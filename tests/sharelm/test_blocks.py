"""A head's norm and rotation, whose gradients are written by hand, against autograd through the plainest formula."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.model.blocks import qk_norm_rotary, rotary_table
from sharelm.sharing import ModelShape
from tests.sharelm.reference import norm, rotate

SIZES = st.integers(1, 4)


def drawn(rows: int, length: int, heads: int, half: int, seed: int) -> tuple[ModelShape, list[torch.Tensor]]:
    """A shape with heads of 2 x `half`; heads [B, T, H, D], a gain [D] and slopes like the heads."""
    width = 2 * half
    generator = torch.Generator().manual_seed(seed)
    sizes = ((rows, length, heads, width), (width,), (rows, length, heads, width))
    return ModelShape(2, heads * width, heads, heads, 1, length), [
        torch.randn(size, generator=generator) for size in sizes
    ]


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 1000))
def test_norm_and_rotation_and_their_gradients_are_those_of_the_formula(rows, length, heads, half, seed):
    shape, (values, gain, slope) = drawn(rows, length, heads, half, seed)
    mine = [part.clone().requires_grad_() for part in (values, gain)]
    exact = [part.double().requires_grad_() for part in (values, gain)]
    found = qk_norm_rotary(*mine, rotary_table(shape, torch.device("cpu"))[:, None, :, None])
    wanted = rotate(norm(*exact).transpose(1, 2), shape).transpose(1, 2)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(wanted, exact, slope.double())
    for one, other in zip(torch.autograd.grad(found, mine, slope), theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_half_precision_rounds_only_what_it_gives():
    shape, (values, gain, slope) = drawn(3, 50, 2, 16, 0)
    rotary = rotary_table(shape, torch.device("cpu"))[:, None, :, None]
    narrow, stored = values.bfloat16().requires_grad_(), gain.clone().requires_grad_()
    found = qk_norm_rotary(narrow, stored, rotary)
    exact = [narrow.detach().double().requires_grad_(), gain.double().requires_grad_()]
    wanted = rotate(norm(*exact).transpose(1, 2), shape).transpose(1, 2)
    theirs = torch.autograd.grad(wanted, exact, slope.bfloat16().double())
    ours = torch.autograd.grad(found, (narrow, stored), slope.bfloat16())
    assert [part.dtype for part in (found, *ours)] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for one, other, most in ((found, wanted, 3e-3), (ours[0], theirs[0], 3e-3), (ours[1], theirs[1], 1e-5)):
        assert (one.double() - other).norm() < most * other.norm()
