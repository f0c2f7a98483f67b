"""Decoding with caches against whole forward passes, and the weights file."""

import json
import pickle
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sharelm.errors import InputError, IntegrityError
from sharelm.model import Decoder, generate, load_model, save_weights
from tests.sharelm.models import SHAPE, SHARINGS, decoder, random_tokens, sharings

PROMPTS = st.lists(st.lists(st.integers(0, SHAPE.vocabulary - 1), min_size=1, max_size=14), min_size=1, max_size=5)


def without_a_cache(model, prompt, new_tokens):
    """Greedy decoding the plain way: a whole forward pass a token."""
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(model(torch.tensor([tokens]))[0, -1].argmax().item())
    return tokens[len(prompt) :]


@settings(max_examples=15, deadline=None)
@given(sharings(), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_cached_decoding_gives_the_logits_of_a_whole_pass(sharing, pieces):
    model, tokens = decoder(sharing), random_tokens(2, sum(pieces[:4]))
    caches = model.caches(batch=2, capacity=tokens.shape[1])
    with torch.inference_mode():
        found = [model(piece, caches=caches) for piece in tokens.split(pieces[:4], dim=1)]
        torch.testing.assert_close(torch.cat(found, dim=1), model(tokens), rtol=1e-4, atol=1e-4)
    assert caches.lengths == [tokens.shape[1]] * 2


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(SHARINGS)), PROMPTS)
def test_a_batch_of_uneven_prompts_goes_on_as_each_would_alone(scheme, prompts):
    model = decoder(SHARINGS[scheme]).double()  # so that no tie is broken by rounding
    together = generate(model, prompts, 5)
    assert together == [without_a_cache(model, prompt, 5) for prompt in prompts]
    assert together == [generate(model, [prompt], 5)[0] for prompt in prompts]


def test_every_depth_keeps_its_own_cache():
    model = decoder(SHARINGS["albert"])
    caches = model.caches(batch=1, capacity=6)
    with torch.inference_mode():
        model(random_tokens(1, 6), caches=caches)
    for depth in range(1, 4):
        assert not torch.allclose(caches.keys[0], caches.keys[depth])


def test_generation_may_fill_the_context_and_no_more():
    model = decoder(SHARINGS["cycle"])
    full = [1] * (SHAPE.context - 2)
    assert [len(row) for row in generate(model, [full, [3]], 2)] == [2, 2]
    with pytest.raises(InputError, match=r"prompts\[1\] has 22 tokens; with new_tokens = 3 .* context of 24"):
        generate(model, [[3], full], 3)
    with pytest.raises(InputError, match=r"prompts\[1\] is empty"):
        generate(model, [[3], []], 3)
    assert generate(model, [], 3) == []


def test_a_model_survives_its_file(tmp_path):
    model, tokens = decoder(SHARINGS["prelude_core_coda"]), random_tokens(2, 9)
    save_weights(model, tmp_path / "weights")
    again = load_model(tmp_path / "weights")
    assert (again.shape, again.sharing) == (model.shape, model.sharing)
    with torch.inference_mode():
        assert torch.equal(again(tokens), model(tokens))


def test_the_same_model_gives_the_same_file(tmp_path):
    model = decoder(SHARINGS["cycle"])
    for name in "abcdefgh":
        save_weights(model, tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_file_keeps_its_precision_and_gives_another_on_request(tmp_path):
    model = decoder(SHARINGS["cycle"])
    save_weights(model, tmp_path / "weights", torch.bfloat16)
    stored = load_file(tmp_path / "weights")
    for precision, dtype in ((None, torch.bfloat16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        loaded = load_model(tmp_path / "weights", precision=precision)
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter, stored[name].to(dtype))
    assert all(torch.equal(tensor, model.get_parameter(name).bfloat16()) for name, tensor in stored.items())


class Spy:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_is_not_a_model_is_refused_in_a_sentence(tmp_path):
    model, path = decoder(SHARINGS["cycle"]), tmp_path / "weights"
    with pytest.raises(InputError, match="weights cannot be read"):
        load_model(path)

    path.write_bytes(pickle.dumps(Spy(tmp_path / "ran")))
    with pytest.raises(IntegrityError, match="is not a safetensors file"):
        load_model(path)
    assert not (tmp_path / "ran").exists()

    save_weights(model, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="is not a safetensors file"):
        load_model(path)

    state = model.state_dict()
    shape, sharing = asdict(model.shape), asdict(model.sharing)

    def header(**described):
        return {"sharelm": json.dumps(described)}

    for metadata, tensors, sentence in (
        (None, state, "no 'sharelm' in its header"),
        (header(shape=shape), state, "no 'sharing' in its header"),
        ({"sharelm": "["}, state, "holds no model that its header describes"),
        (
            header(shape=shape, sharing={"attention": [0, 2], "feed_forward": [0, 1]}),
            state,
            "never reads stored block 1",
        ),
        (header(shape={"width": 3}, sharing=sharing), state, "holds no model that its header describes"),
        (header(shape=shape, sharing=[1]), state, "holds no model that its header describes"),
        (header(shape=shape, sharing=sharing), {k: v for k, v in state.items() if "key_norm" not in k}, "Missing key"),
        (
            header(shape=shape, sharing=sharing),
            {**state, "embedding": state["embedding"][:-1].clone()},
            "size mismatch for embedding",
        ),
    ):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(IntegrityError, match=sentence) as error:
            load_model(path)
        assert "\n" not in str(error.value)


def test_a_loaded_model_is_ready_to_train_on(tmp_path):
    save_weights(Decoder(SHAPE, SHARINGS["albert"]).initialise(0), tmp_path / "weights")
    model, tokens = load_model(tmp_path / "weights"), random_tokens(1, 8)
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
