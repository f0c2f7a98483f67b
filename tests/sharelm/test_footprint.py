"""Closed forms against the model that is built: parameters, FLOPs, caches, weights file."""

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sharelm.model import Decoder, save_weights
from sharelm.sharing import SCHEMES, footprint
from tests.sharelm.models import SHAPE, SHARINGS, random_tokens, shapes, sharings

EVERY_SCHEME = pytest.mark.parametrize("scheme", SHARINGS)


def counted_flops(run):
    """FLOPs that torch counts; its counter knows the matrix products of the math backend alone on a CPU."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_every_scheme_is_proved():
    assert set(SHARINGS) == set(SCHEMES)


@EVERY_SCHEME
def test_parameters_of_every_scheme(scheme):
    check_parameters(SHAPE, SHARINGS[scheme])


@settings(max_examples=60, deadline=None)
@given(shapes(), sharings())
def test_parameters_of_any_shape_under_any_sharing(shape, sharing):
    check_parameters(shape, sharing)


def check_parameters(shape, sharing):
    model, expected = Decoder(shape, sharing), footprint(shape, sharing)
    called = [model.attention_blocks[i] for i in sharing.attention]
    called += [model.feed_forward_blocks[i] for i in sharing.feed_forward]
    rest = model.embedding.numel() + model.final_norm.weight.numel()
    assert sum(p.numel() for p in model.parameters()) == expected.stored_parameters
    assert sum(t.numel() for t in model.state_dict().values()) == expected.stored_parameters
    assert sum(p.numel() for block in called for p in block.parameters()) + rest == expected.materialised_parameters
    assert model.embedding.numel() == expected.embedding_parameters


@EVERY_SCHEME
def test_flops_of_every_scheme(scheme):
    check_flops(SHAPE, SHARINGS[scheme], prompt=7)


@settings(max_examples=15, deadline=None)
@given(shapes(), sharings(), st.data())
def test_flops_of_any_shape_under_any_sharing(shape, sharing, data):
    check_flops(shape, sharing, data.draw(st.integers(1, shape.context - 1)))


def check_flops(shape, sharing, prompt):
    model, expected, batch = Decoder(shape, sharing).initialise(0), footprint(shape, sharing), 2
    whole = random_tokens(batch, shape.context, shape)
    forward = counted_flops(lambda: model(whole))
    assert 3 * forward == expected.training_flops_per_token * batch * shape.context  # backward counts twice the forward

    caches = model.caches(batch, prompt + 1)
    prefill = counted_flops(lambda: model(whole[:, :prompt], caches=caches, last_only=True))
    assert prefill == pytest.approx(expected.prefill_flops_per_token(prompt) * batch * prompt, rel=1e-12)
    decode = counted_flops(lambda: model(whole[:, prompt : prompt + 1], caches=caches))
    assert decode == expected.decode_flops_per_token(prompt + 1) * batch


@EVERY_SCHEME
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_and_file_bytes_of_every_scheme(scheme, dtype, tmp_path):
    sharing = SHARINGS[scheme]
    model, expected = Decoder(SHAPE, sharing).initialise(0).to(dtype), footprint(SHAPE, sharing)
    caches = model.caches(batch=3, capacity=11)
    assert caches.bytes == 3 * 11 * expected.kv_bytes_per_token(dtype.itemsize)
    assert caches.bytes == caches.keys.untyped_storage().nbytes() + caches.values.untyped_storage().nbytes()

    save_weights(model, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    assert len(content) == 8 + header + expected.weight_bytes(dtype.itemsize)
