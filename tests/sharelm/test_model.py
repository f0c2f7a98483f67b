"""The decoder against another library's, and a shared model against the unrolled independent one."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.model import Decoder, initial
from sharelm.sharing import ModelShape, Sharing, build_sharing
from tests.sharelm.models import SHAPE, SHARINGS, decoder, random_tokens, sharings, unrolled

ANY_SHARING = settings(max_examples=20, deadline=None)


def test_logits_equal_those_of_qwen3():
    transformers = pytest.importorskip("transformers")
    model = decoder(build_sharing("independent", 3))
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=SHAPE.vocabulary,
            hidden_size=SHAPE.width,
            intermediate_size=SHAPE.feed_forward,
            num_hidden_layers=3,
            num_attention_heads=SHAPE.heads,
            num_key_value_heads=SHAPE.kv_heads,
            head_dim=SHAPE.head_width,
            max_position_embeddings=SHAPE.context,
            rope_parameters={"rope_type": "default", "rope_theta": SHAPE.rope_theta},
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            attention_bias=False,
        )
    ).eval()
    names = {
        "norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "query_norm": "self_attn.q_norm",
        "key_norm": "self_attn.k_norm",
        "output": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    state = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.final_norm.weight}
    state["lm_head.weight"] = model.embedding
    for kind, blocks in (("attention", model.attention_blocks), ("feed_forward", model.feed_forward_blocks)):
        for depth, block in enumerate(blocks):
            for name, tensor in block.state_dict().items():
                part = name.removesuffix(".weight")
                renamed = "post_attention_layernorm" if (kind, part) == ("feed_forward", "norm") else names[part]
                state[f"model.layers.{depth}.{renamed}.weight"] = tensor
    theirs.load_state_dict(state)
    tokens = random_tokens(3, SHAPE.context)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=2e-5, rtol=1e-5)


@ANY_SHARING
@given(sharings())
def test_a_shared_model_equals_the_unrolled_independent_one(sharing):
    model, tokens = decoder(sharing), random_tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(model(tokens), unrolled(model)(tokens))


@ANY_SHARING
@given(sharings())
def test_a_shared_gradient_is_the_sum_of_the_copies_gradients(sharing):
    model = decoder(sharing)
    copies, tokens = unrolled(model), random_tokens(2, 9)
    for each in (model, copies):
        each(tokens[:, :-1], tokens[:, 1:]).backward()
    for blocks, theirs, schedule in (
        (model.attention_blocks, copies.attention_blocks, sharing.attention),
        (model.feed_forward_blocks, copies.feed_forward_blocks, sharing.feed_forward),
    ):
        for number, block in enumerate(blocks):
            for name, parameter in block.named_parameters():
                read = [theirs[depth].get_parameter(name).grad for depth, b in enumerate(schedule) if b == number]
                torch.testing.assert_close(parameter.grad, sum(read), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.embedding.grad, copies.embedding.grad, rtol=1e-4, atol=1e-6)


def test_one_loop_of_one_block_is_no_sharing():
    tokens = random_tokens(2, 9)
    plain = Decoder(SHAPE, build_sharing("independent", 1)).initialise(3)
    for scheme, numbers in (("albert", {}), ("cycle", {"blocks": 1}), ("sequence", {"blocks": 1})):
        looped = Decoder(SHAPE, build_sharing(scheme, 1, **numbers)).initialise(3)
        assert torch.equal(looped(tokens), plain(tokens))


def test_the_order_of_a_schedule_matters():
    model, tokens = decoder(Sharing((0, 0, 1), (0, 1, 1))), random_tokens(2, 9)
    other = Decoder(SHAPE, Sharing((0, 1, 0), (0, 1, 1)))
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(tokens), other(tokens), atol=1e-3)


def test_no_token_sees_a_later_one():
    model, tokens = decoder(SHARINGS["cycle"]), random_tokens(2, 12)
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % SHAPE.vocabulary
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, :8], model(changed)[:, :8])
        assert not torch.equal(model(tokens)[:, 8], model(changed)[:, 8])


def test_loss_is_the_mean_negative_log_likelihood_in_nats():
    model, tokens = decoder(SHARINGS["albert"]), random_tokens(3, 10)
    chances = model(tokens[:, :-1]).double().softmax(dim=-1)
    said = chances.gather(-1, tokens[:, 1:, None])
    assert model(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(-said.log().mean().item(), rel=1e-6)


@pytest.mark.parametrize("scheme", ["albert", "cycle", "feed_forward_only"])
def test_activation_checkpointing_changes_neither_loss_nor_gradients(scheme):
    tokens = random_tokens(2, 12)
    plain = decoder(SHARINGS[scheme]).train()
    thrifty = decoder(SHARINGS[scheme], activation_checkpointing=True).train()
    saved = {}
    for model in (plain, thrifty):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        saved[model] = (loss.item(), sum(t.numel() for t in kept))
    assert saved[plain][0] == saved[thrifty][0]
    assert saved[thrifty][1] < saved[plain][1] / 2
    for (name, one), (_, other) in zip(plain.named_parameters(), thrifty.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, msg=name)


def test_initial_weights_follow_from_the_seed_alone():
    sharing = SHARINGS["cycle"]
    torch.manual_seed(1)
    one = Decoder(SHAPE, sharing).initialise(7).state_dict()
    torch.manual_seed(2)
    again = Decoder(SHAPE, sharing).initialise(7).state_dict()
    other = Decoder(SHAPE, sharing).initialise(8).state_dict()
    for name in one:
        assert torch.equal(one[name], again[name])
        assert one[name].dim() == 1 or not torch.equal(one[name], other[name])
    values = [tensor.flatten()[:2].tolist() for tensor in one.values() if tensor.dim() == 2]
    assert len({tuple(v) for v in values}) == len(values)  # no two matrices start alike


def test_initial_weights_do_not_depend_on_the_number_of_threads():
    shape, sharing = ModelShape(64, 512, 8, 8, 512, 8), build_sharing("relaxed", 2, blocks=1, rank=64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(Decoder(shape, sharing).initialise(0).state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], other[name]) for other in found for name in found[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 100), st.integers(1, 4))
def test_a_matrix_drawn_in_pieces_is_the_one_drawn_whole(rows, columns, piece, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initial, "PIECE", piece)
        whole, filled = initial.draw(3, "name", (rows, columns), 0.5), torch.zeros(rows, columns)
        with ThreadPoolExecutor(threads) as pool:
            for each in initial.draw_into(filled, 3, "name", 0.5, pool):
                each.result()
    assert torch.equal(whole, filled)
    assert len({tuple(row) for row in whole.tolist()}) == rows  # no piece repeats another
    if rows * columns <= piece:
        first = torch.Generator().manual_seed(int.from_bytes(sha256(b"3 name").digest()[:8]) >> 1)
        assert torch.equal(whole, torch.randn(rows, columns, generator=first) * 0.5)


def test_initial_weights_have_the_stated_spread():
    sharing = build_sharing("cycle", 8, blocks=2)
    model = Decoder(SHAPE, sharing).initialise(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
            continue
        expected = 0.02 / 4 if "output" in name or "down" in name else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(parameter.mean().item()) < expected / 5


def test_blocks_that_two_arms_have_in_common_start_the_same():
    shared, independent = (Decoder(SHAPE, SHARINGS[name]).initialise(5) for name in ("cycle", "independent"))
    theirs = independent.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in shared.state_dict().items())


def test_each_stored_block_is_registered_once_and_no_tensor_twice():
    model = Decoder(SHAPE, SHARINGS["prelude_core_coda"])
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values())
    assert set(storages.values()) == {1}
    assert (len(model.attention_blocks), len(model.feed_forward_blocks)) == (4, 4)


def test_generating_first_does_not_spoil_training():
    model, tokens = decoder(SHARINGS["albert"]), random_tokens(1, 8)
    with torch.inference_mode():
        model(tokens)
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert model.embedding.grad.isfinite().all()


def test_code_of_one_depth_serves_every_depth_and_scheme():
    torch._dynamo.reset()
    counted, tokens = torch._dynamo.utils.counters["stats"], random_tokens(2, 9)

    def graphs(scheme):
        before = counted["unique_graphs"]
        plain, compiled = (decoder(SHARINGS[scheme]).train() for _ in range(2))
        compiled.compile_depths(backend="aot_eager")
        for model in (plain, compiled):
            model(tokens[:, :-1], tokens[:, 1:]).backward()
        for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        return counted["unique_graphs"] - before

    assert graphs("independent") == 2  # a depth, and the loss
    assert [graphs(scheme) for scheme in ("albert", "cycle", "sandwich", "prelude_core_coda")] == [0] * 4
    assert graphs("relaxed") == 1  # merged matrices are tensors, not parameters
    assert graphs("atoms") == graphs("residual") == 0
