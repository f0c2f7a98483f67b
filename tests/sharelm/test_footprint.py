"""Closed forms against the model that is built: parameters, FLOPs, caches, weights file."""

import struct
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from sharelm.closed_form.footprint import footprint
from sharelm.model import Decoder, load_model, save_weights
from sharelm.sharing import KINDS, SCHEMES, Atoms, LowRank
from tests.sharelm.models import SHARINGS, compositions, fitting, random_tokens

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
    check_parameters(fitting(SHARINGS[scheme]), SHARINGS[scheme])


@settings(max_examples=40, deadline=None)
@given(compositions())
def test_parameters_of_any_composition(drawn):
    check_parameters(*drawn)


def check_parameters(shape, sharing):
    model, expected = Decoder(shape, sharing).initialise(0), footprint(shape, sharing)
    assert sum(p.numel() for p in model.parameters()) == expected.stored_parameters
    assert sum(t.numel() for t in model.state_dict().values()) == expected.stored_parameters
    embeddings = [model.embedding, model.expansion, model.head_embedding, model.head_expansion]
    assert sum(p.numel() for p in embeddings if p is not None) == expected.embedding_parameters

    written = model.weights(merged=True)
    depths = [kind for by_kind in written.values() for kind in by_kind]
    matrices = sum(weight.matrix.numel() for depth in depths for weight in depth.values())
    gains = sum(
        p.numel()
        for kind in KINDS
        for depth in range(sharing.depth)
        for name, p in model._depths.sub_layers[kind].norm_gains(depth).items()
        if depth in sharing.depths(kind, name)
    )
    rest = [*embeddings, model.final_norm.weight, model.depth_embedding, model.injection]
    rest += model.hyper_connections.parameters() if model.hyper_connections is not None else []
    written_out = matrices + gains + sum(p.numel() for p in rest if p is not None)
    assert written_out == expected.materialised_parameters


@EVERY_SCHEME
def test_flops_of_every_scheme(scheme):
    check_flops(fitting(SHARINGS[scheme]), SHARINGS[scheme], prompt=7)


@settings(max_examples=15, deadline=None)
@given(compositions(), st.data())
def test_flops_of_any_composition(drawn, data):
    check_flops(*drawn, data.draw(st.integers(1, drawn[0].context - 1)))


def check_flops(shape, sharing, prompt):
    model, expected, batch = Decoder(shape, sharing).initialise(0), footprint(shape, sharing), 2
    whole = random_tokens(batch, shape.context, shape)
    assert sum(fraction for fraction, _ in expected.training_phases) == 1
    for model.looping, (_, flops) in zip([True, False], reversed(expected.training_phases), strict=False):
        forward = counted_flops(lambda: model(whole)) - expected.merge_flops_per_pass
        assert 3 * forward == flops * batch * shape.context  # backward counts twice the forward
    model.looping = True

    caches = model.caches(batch, prompt + 1)
    prefill = counted_flops(lambda: model(whole[:, :prompt], caches=caches, last_only=True))
    prefill -= expected.merge_flops_per_request
    assert prefill == pytest.approx(expected.prefill_flops_per_token(prompt) * batch * prompt, rel=1e-12)
    decode = counted_flops(lambda: model(whole[:, prompt : prompt + 1], caches=caches))
    assert decode == expected.decode_flops_per_token(prompt + 1) * batch


@settings(max_examples=15, deadline=None)
@given(compositions())
def test_weights_read_and_held_by_a_decoding_step(drawn):
    shape, sharing = drawn
    model, expected = Decoder(shape, sharing).initialise(0).eval(), footprint(shape, sharing)
    caches, stored = model.caches(1, 1), {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters()}
    with Reads() as reads, torch.no_grad():
        caches.weights = model.weights(merged=False)
        reads.sizes.clear()  # what mixing the atoms reads is paid once a request
        model(torch.zeros(1, 1, dtype=torch.long), caches=caches)
    kinds = [depth for kind in caches.weights.values() for depth in kind]
    mixed = {
        weight.matrix.data_ptr(): weight.matrix.numel()
        for depth in kinds
        for weight in depth.values()
        if weight.matrix.untyped_storage().data_ptr() not in stored
    }
    assert sum(mixed.values()) == expected.merged_parameters
    known = set(stored) | {weight.matrix.untyped_storage().data_ptr() for depth in kinds for weight in depth.values()}
    read = sum(size for storage, size in reads.sizes if storage in known)
    assert read == expected.weights_read_per_decoded_token


@settings(max_examples=40, deadline=None)
@given(compositions(), st.booleans())
def test_activations_kept_for_the_backward_pass(drawn, recompute):
    shape, sharing = drawn
    sharing = replace(sharing, low_rank=LowRank(), diagonal=(), atoms=Atoms())  # merged matrices are not per token
    model = Decoder(shape, sharing, activation_checkpointing=recompute).initialise(0).train()
    tokens, kept = random_tokens(3, shape.context + 1, shape), {}

    def keep(tensor):
        if tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def checkpointing(function, *arguments, **options):
        for argument in pytree.tree_leaves(arguments):  # held until the part is run again
            if isinstance(argument, torch.Tensor):
                keep(argument)
        return checkpoint(function, *arguments, **options)

    with (
        patch("sharelm.model.depth.checkpoint", checkpointing),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    ours = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    elements = sum(storage.nbytes() // 4 for place, storage in kept.items() if place not in ours)
    elements -= 2 * shape.head_width * shape.context  # rotary angles
    elements -= shape.vocabulary * sharing.embedding_width(shape)  # the head's gradient
    expected = footprint(shape, sharing)
    per_token = expected.checkpointed_activations_per_token if recompute else expected.activations_per_token
    assert elements == per_token * 3 * shape.context, (elements / 3 / shape.context, per_token)
    assert loss.isfinite()


class Reads(TorchDispatchMode):
    """The storage and number of elements of every tensor that an operation computes with."""

    VIEWS = (
        "view",
        "_unsafe_view",
        "t.",
        "transpose",
        "permute",
        "select",
        "squeeze",
        "unsqueeze",
        "slice",
        "expand",
        "detach",
        "alias",
        "unbind",
        "split",
    )

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = str(function).removeprefix("aten.")
        if not name.startswith(self.VIEWS):
            first = result.numel() if name.startswith(("embedding", "index")) else None  # only the rows it takes
            for argument in pytree.tree_leaves((arguments, keywords)):
                if isinstance(argument, torch.Tensor):
                    self.sizes.append((argument.untyped_storage().data_ptr(), first or argument.numel()))
        return result


@EVERY_SCHEME
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_and_file_bytes_of_every_scheme(scheme, dtype, tmp_path):
    check_bytes(fitting(SHARINGS[scheme]), SHARINGS[scheme], dtype, tmp_path / "weights")


@settings(max_examples=10, deadline=None)
@given(compositions())
def test_cache_and_file_bytes_of_any_composition(drawn):
    with TemporaryDirectory() as folder:
        check_bytes(*drawn, torch.float32, Path(folder, "weights"))


def check_bytes(shape, sharing, dtype, path):
    model, expected = Decoder(shape, sharing).initialise(0).to(dtype), footprint(shape, sharing)
    caches = model.caches(batch=3, capacity=11)
    assert caches.bytes == 3 * 11 * expected.kv_bytes_per_token(dtype.itemsize)
    assert caches.bytes == caches.keys.untyped_storage().nbytes() + caches.values.untyped_storage().nbytes()

    save_weights(model, path)
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    assert len(content) == 8 + header + expected.weight_bytes(dtype.itemsize)
    assert (load_model(path).shape, load_model(path).sharing) == (shape, sharing)
