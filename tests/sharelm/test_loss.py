"""The head's loss in chunks against torch's cross-entropy of whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.model.loss import head_loss


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(2, 30), st.integers(1, 9), st.integers(1, 25), st.floats(-3, 3), st.data())
def test_loss_and_gradients_are_those_of_whole_logits(positions, vocabulary, width, rows, weight, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    hidden, head = (
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((positions, width), (vocabulary, width))
    )
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    expected = F.cross_entropy(hidden @ head.t(), targets)
    found = head_loss(hidden, head, targets, rows=rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)  # sums are in fp32
    wanted = torch.autograd.grad(expected * weight, (hidden, head))
    for mine, other in zip(torch.autograd.grad(found * weight, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_half_precision_is_as_near_as_its_products_are():
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(200, 64, generator=generator), torch.randn(500, 64, generator=generator) / 8
    targets = torch.randint(0, 500, (200,), generator=generator)
    narrow, stored = hidden.bfloat16().requires_grad_(), head.clone().requires_grad_()
    found = head_loss(narrow, stored, targets, rows=64)
    found.backward()
    exact = [t.detach().double().requires_grad_() for t in (narrow, stored.bfloat16())]
    expected = F.cross_entropy(exact[0] @ exact[1].t(), targets)
    expected.backward()
    assert found.dtype == stored.grad.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)
    for mine, other in ((narrow.grad, exact[0].grad), (stored.grad, exact[1].grad)):
        assert (mine.double() - other).norm() < 2e-2 * other.norm()


def test_no_more_than_a_chunk_of_logits_is_held():
    held = []

    def watched(logits, targets, scale):
        held.append(logits.shape[0])
        return logits.float().logsumexp(-1), logits

    head_loss(torch.ones(10, 2), torch.ones(3, 2), torch.zeros(10, dtype=torch.int64), watched, rows=4)
    assert held == [4, 4, 2]
