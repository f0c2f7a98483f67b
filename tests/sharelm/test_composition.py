"""Every composition of degrees against a model written again in plain torch, and against what it degenerates to."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.model import Decoder, generate
from sharelm.model.depth_matrices import truncated_svd
from sharelm.sharing import KINDS, Atoms, LowRank, Sharing, build_sharing
from sharelm.training.engine import decayed_parameters
from sharelm.training.regularise import scale_gradients
from tests.sharelm.models import SHAPE, SHARINGS, compositions, decoder, fitting, random_tokens
from tests.sharelm.reference import reference_logits

ANY_COMPOSITION = settings(max_examples=30, deadline=None)
CYCLE = build_sharing("cycle", 4, blocks=2)


def loss_of(logits, targets):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@ANY_COMPOSITION
@given(compositions(), st.booleans())
def test_loss_and_gradients_are_those_of_plain_torch(drawn, recompute):
    """A shared weight's gradient is the sum over its uses: autograd sums it here, over leaves used many times."""
    shape, sharing = drawn
    model = decoder(sharing, shape, activation_checkpointing=recompute).double().train()
    tokens = random_tokens(2, shape.context + 1, shape)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in model.state_dict().items()}
    expected = loss_of(reference_logits(leaves, shape, sharing, tokens[:, :-1]), tokens[:, 1:])
    found = loss_of(model(tokens[:, :-1]), tokens[:, 1:])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)  # rotary angles are fp32 in the model
    expected.backward()
    found.backward()
    for name, parameter in model.named_parameters():
        theirs = leaves[name].grad
        torch.testing.assert_close(parameter.grad, theirs, rtol=2e-3, atol=1e-4 * theirs.abs().max().item() + 1e-7)


@ANY_COMPOSITION
@given(compositions(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_cached_decoding_gives_the_logits_of_a_whole_pass(drawn, pieces):
    """Deltas are applied apart in decoding and merged in a whole pass."""
    shape, sharing = drawn
    length = sum(pieces)
    shape = replace(shape, context=max(shape.context, length))
    model, tokens = decoder(sharing, shape).double(), random_tokens(2, length, shape)
    caches = model.caches(batch=2, capacity=length)
    if sharing.kv == "last":
        pieces = [1] * length  # by token, the order in which it is defined
    with torch.inference_mode():
        found = [model(piece, caches=caches) for piece in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(found, dim=1), model(tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", sorted(set(SHARINGS) - {"independent"}))
@pytest.mark.parametrize("kv", ["first", "last"])
def test_a_cache_a_block_generates_what_whole_passes_choose(scheme, kv):
    if not SHARINGS[scheme].looped_depths("attention"):
        return
    model = decoder(replace(SHARINGS[scheme], kv=kv)).double()
    prompts = [[3], [5]] if kv == "last" else [[3, 1, 4], [5]]  # a longer prompt is read at once, exactly
    together, tokens = generate(model, prompts, 5), [list(prompt) for prompt in prompts]
    for row in tokens:
        for _ in range(5):
            row.append(model(torch.tensor([row]))[0, -1].argmax().item())
    assert together == [row[-5:] for row in tokens]


def test_the_last_loops_cache_is_exact_within_a_prompt_and_an_approximation_after_it():
    exact = decoder(CYCLE)
    reused = Decoder(SHAPE, replace(CYCLE, kv="last"))
    reused.load_state_dict(exact.state_dict())
    tokens = random_tokens(2, 9)
    with torch.inference_mode():
        at_once = reused(tokens, caches=reused.caches(2, 9))
        torch.testing.assert_close(at_once, exact(tokens), rtol=1e-5, atol=1e-5)
        assert torch.equal(reused.train()(tokens), exact(tokens))  # trained side by side
        assert not torch.allclose(reused.eval()(tokens), exact(tokens), atol=1e-3)


@pytest.mark.parametrize("size", [(20, 9), (9, 20), (12, 12)])
def test_truncation_is_that_of_a_singular_value_decomposition(size):
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    for rank in (1, 4, min(size)):
        outer, inner = truncated_svd(matrix, rank)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        torch.testing.assert_close(outer.double() @ inner.double(), best, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outer.norm(dim=0), inner.norm(dim=1))  # the two share a singular value evenly
    for poor in (torch.zeros(size), torch.ones(size)):
        outer, inner = truncated_svd(poor, 3)
        torch.testing.assert_close(outer @ inner, poor)


def merged(model):
    """Every matrix of every depth, {(kind, depth, name): tensor}."""
    return {
        (kind, depth, name): weight.matrix
        for kind, depths in model.weights(merged=True).items()
        for depth, weights in enumerate(depths)
        for name, weight in weights.items()
    }


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_rank_walks_from_hard_sharing_to_none(activation):
    """Rank 0 is the cycle; the nearer to full rank, the nearer to the independent start; full rank is that start."""
    shape = replace(SHAPE, activation=activation)
    plain = Decoder(shape, build_sharing("independent", 4)).initialise(5)
    hard = Decoder(shape, CYCLE).initialise(5)
    target, distances, tokens = merged(plain), [], random_tokens(2, 9)
    for rank in (0, 1, 2, 4, 8, 16, 24, 32):
        relaxed = Decoder(shape, build_sharing("relaxed", 4, blocks=2, rank=rank)).initialise(5)
        distances.append(sum((matrix - target[key]).norm().item() for key, matrix in merged(relaxed).items()))
        if rank == 0:
            assert torch.equal(relaxed(tokens), hard(tokens))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < distances[-2]
    torch.testing.assert_close(relaxed(tokens), plain(tokens), rtol=1e-4, atol=1e-6)


def test_a_full_rank_delta_holds_any_independent_model():
    """Trained weights, not only the start: deltas set to the difference from the block give the other model back."""
    plain, tokens = decoder(build_sharing("independent", 4), seed=1), random_tokens(2, 9)
    relaxed = Decoder(SHAPE, replace(CYCLE, low_rank=LowRank(32, 32, 2.0, -0.5))).initialise(0).eval()
    relaxed.load_state_dict({"embedding": plain.embedding.data}, strict=False)
    targets, bases = merged(plain), merged(relaxed)
    with torch.no_grad():
        for (kind, depth, name), target in targets.items():
            matrices = getattr(relaxed, f"{kind}_recipes")
            outer, inner = truncated_svd((target - bases[kind, depth, name]) / matrices.scale, 32)
            matrices.outer[name][depth].copy_(outer)
            matrices.inner[name][depth].copy_(inner)
        for key, matrix in merged(relaxed).items():
            torch.testing.assert_close(matrix, targets[key], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(relaxed(tokens), plain(tokens), atol=1e-2)  # gains are still the relaxed model's own
    for module in (plain, relaxed):
        for name, gain in module.named_parameters():
            if "norm" in name:
                gain.data.fill_(1)
    torch.testing.assert_close(relaxed(tokens), plain(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("coefficients", ["learned", "fixed"])
def test_one_hot_atoms_are_the_schedule(coefficients):
    mixed = Decoder(SHAPE, replace(CYCLE, atoms=Atoms(coefficients, coefficients))).initialise(3)
    hard, tokens = Decoder(SHAPE, CYCLE).initialise(3), random_tokens(2, 9)
    torch.testing.assert_close(mixed(tokens), hard(tokens), rtol=0, atol=0)
    for model in (mixed, hard):
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    for name, parameter in hard.named_parameters():
        torch.testing.assert_close(mixed.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-7)


STARTS_AS_ITS_SCHEDULE = {
    "low rank": {"low_rank": LowRank(3, 3)},
    "diagonal": {"diagonal": KINDS},
    "norms": {"norms": "per_depth"},
    "depth embedding": {"depth_embedding": True},
    "everything": {"low_rank": LowRank(3, 3), "diagonal": KINDS, "norms": "per_depth", "depth_embedding": True},
}


@pytest.mark.parametrize("degrees", STARTS_AS_ITS_SCHEDULE.values(), ids=STARTS_AS_ITS_SCHEDULE)
def test_a_degree_that_starts_at_nothing_starts_as_its_schedule(degrees):
    tokens = random_tokens(2, 9)
    with_degrees = Decoder(SHAPE, replace(CYCLE, **degrees)).initialise(3)
    assert torch.equal(with_degrees(tokens), Decoder(SHAPE, CYCLE).initialise(3)(tokens))


def test_a_linear_injection_starts_as_the_additive_one_which_is_not_none():
    tokens = random_tokens(2, 9)
    none, additive, linear = (
        Decoder(SHAPE, replace(CYCLE, injection=kind)).initialise(3)(tokens) for kind in ("none", "additive", "linear")
    )
    torch.testing.assert_close(linear, additive, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(additive, none, atol=1e-4)


@pytest.mark.parametrize("streams", [2, 4])
def test_streams_start_as_one_residual_stream(streams):
    tokens = random_tokens(2, 9)
    one = Decoder(SHAPE, CYCLE).initialise(3)(tokens)
    several = Decoder(SHAPE, replace(CYCLE, streams=streams)).initialise(3)(tokens)
    torch.testing.assert_close(several, one, rtol=2e-3, atol=1e-4)  # the final norm sees the sum, and its epsilon


def test_ties_halve_what_they_tie():
    shape = replace(SHAPE, activation="gelu", kv_heads=4)

    def block_matrices(sharing):
        return sum(p.numel() for n, p in Decoder(shape, sharing).named_parameters() if "blocks" in n and p.dim() == 2)

    plain = build_sharing("independent", 3)
    assert block_matrices(replace(plain, ties=KINDS)) * 2 == block_matrices(plain)


@pytest.mark.parametrize("scheme", SHARINGS)
def test_every_scheme_learns(scheme):
    sharing = SHARINGS[scheme]
    model = Decoder(fitting(sharing), sharing).initialise(0).train()
    tokens, optimizer = random_tokens(4, 13), torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_before_it_switches_on_a_late_loop_is_the_plain_stack():
    sharing = replace(build_sharing("late_loop", 6, first=1, last=2), norms="per_depth", injection="linear")
    assert sharing.plain_depths == [0, 1, 2, 5]
    model, tokens = decoder(sharing).train(), random_tokens(2, 9)
    model.looping = False
    plain = Decoder(SHAPE, build_sharing("independent", 4)).train()
    for depth, own in zip(sharing.plain_depths, range(4), strict=True):
        for kind in KINDS:
            target, blocks = getattr(plain, f"{kind}_blocks")[own], getattr(model, f"{kind}_blocks")
            target.load_state_dict(
                {**blocks[sharing.attention[depth]].state_dict(), **getattr(model, f"{kind}_gains")[depth].state_dict()}
            )
    plain.embedding.data.copy_(model.embedding.data)
    plain.final_norm.load_state_dict(model.final_norm.state_dict())
    assert torch.equal(model(tokens), plain(tokens))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(p.grad is not None for p in model.parameters())  # what waits for the loop has zeros
    model.looping = True
    assert not torch.allclose(model(tokens), plain(tokens), atol=1e-2)


@pytest.mark.parametrize(("rule", "factor"), [("sum", 1), ("mean", 1 / 3), ("root", 3**-0.5)])
def test_gradients_are_scaled_by_the_number_of_uses(rule, factor):
    sharing = Sharing((0, 0, 1, 0), (0, 1, 2, 3))
    model, plain, tokens = decoder(sharing), decoder(sharing), random_tokens(2, 9)
    scale_gradients(model, rule)
    for each in (model, plain):
        each(tokens[:, :-1], tokens[:, 1:]).backward()
    for name, parameter in plain.named_parameters():
        expected = parameter.grad * (factor if name.startswith("attention_blocks.0.") else 1)
        torch.testing.assert_close(model.get_parameter(name).grad, expected)


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"stochastic_depth": 0.6}])
@pytest.mark.parametrize("recompute", [False, True])
def test_masks_are_drawn_in_training_alone_and_are_right_on_average(rates, recompute):
    model, tokens = decoder(CYCLE, activation_checkpointing=recompute, **rates), random_tokens(2, 9)
    plain = decoder(CYCLE)
    assert torch.equal(model(tokens), plain(tokens))
    model.train()
    torch.manual_seed(0)
    one, other = model(tokens), model(tokens)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    again = model(tokens)
    assert torch.equal(again, one)
    again.square().mean().backward()  # recomputed parts draw the masks of the pass they belong to
    kept = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(0)
    model.activation_checkpointing = not recompute
    model(tokens).square().mean().backward()
    for mine, parameter in zip(kept, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    if model.stochastic_depth:
        for depth, dropped in ((0, 0.15), (3, 0.6)):
            kept = model._depths.keep_scale(model.stochastic_depth, depth, 4000, model.embedding)
            assert kept.mean().item() == pytest.approx(1, abs=0.06)
            assert (kept == 0).float().mean().item() == pytest.approx(dropped, abs=0.05)


def test_decay_is_of_matrices_each_once():
    sharing = replace(
        CYCLE, low_rank=LowRank(2, 2), diagonal=KINDS, atoms=Atoms("learned"), depth_embedding=True, injection="linear"
    )
    model = Decoder(SHAPE, sharing)
    decayed = {id(p) for p in decayed_parameters(model)}
    names = {name.split(".")[-2] for name, p in model.named_parameters() if id(p) not in decayed and "." in name}
    assert names == {"norm", "query_norm", "key_norm", "final_norm", "diagonal", "coefficients"}
    assert len(decayed) == len(decayed_parameters(model)) == 1 + 2 * 7 + 2 * 7  # embedding; blocks; factors
    assert Sharing(CYCLE.attention, CYCLE.feed_forward) == CYCLE
