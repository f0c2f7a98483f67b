"""What a GPU must do as the CPU does: weights, logits, caches, scores."""

from dataclasses import replace

import pytest
import torch

from sharelm.data.tokenizer import train_tokenizer
from sharelm.evaluation import Item, score
from sharelm.evaluation.decoder import DecoderScorer
from sharelm.model import Decoder, generate, load_model, save_weights
from sharelm.model.attention import flex_causal_attention
from sharelm.sharing import LowRank
from tests.sharelm.models import SHAPE, SHARINGS, decoder, fitting, random_tokens
from tests.sharelm.reference import causal_attention

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
EVERY_SCHEME = pytest.mark.parametrize("scheme", SHARINGS)


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


MIXED = {"deltas on atoms": replace(SHARINGS["atoms"], low_rank=LowRank(2, 2, start="svd"))}


@pytest.mark.parametrize("sharing", (SHARINGS | MIXED).values(), ids=(SHARINGS | MIXED).keys())
def test_initial_weights_are_those_of_the_cpu(sharing):
    shape = fitting(sharing)
    with torch.device("cuda"):
        there = Decoder(shape, sharing).initialise(3)
    here = Decoder(shape, sharing).initialise(3)
    assert {weight.device.type for weight in there.parameters()} == {"cuda"}
    assert all(torch.equal(t, there.state_dict()[name].cpu()) for name, t in here.state_dict().items())


@EVERY_SCHEME
def test_logits_and_gradients_are_those_of_the_cpu(scheme):
    tokens, here = random_tokens(3, 12), decoder(SHARINGS[scheme])
    there = decoder(SHARINGS[scheme], activation_checkpointing=True).cuda().train()
    with torch.no_grad():
        torch.testing.assert_close(there(tokens.cuda()).cpu(), here(tokens), rtol=1e-4, atol=1e-4)
    here(tokens[:, :-1], tokens[:, 1:]).backward()
    there(tokens[:, :-1].cuda(), tokens[:, 1:].cuda()).backward()
    for (name, one), (_, other) in zip(here.named_parameters(), there.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.cpu(), rtol=1e-3, atol=1e-4, msg=name)


@EVERY_SCHEME
def test_uneven_prompts_go_on_as_on_the_cpu(scheme):
    here, there = decoder(SHARINGS[scheme]).double(), decoder(SHARINGS[scheme]).double().cuda()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    assert generate(there, prompts, 6) == generate(here, prompts, 6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_decoding_equals_a_whole_pass(precision, tmp_path):
    save_weights(decoder(SHARINGS["prelude_core_coda"]), tmp_path / "weights")
    model, tokens = load_model(tmp_path / "weights", "cuda", precision), random_tokens(2, 16).cuda()
    caches = model.caches(batch=2, capacity=16)
    with torch.inference_mode():
        pieces = [model(piece, caches=caches) for piece in tokens.split([5, 4, 1, 1, 5], dim=1)]
        whole = model(tokens)
    worst = (torch.cat(pieces, dim=1).float() - whole.float()).abs().max().item()
    assert worst < (1e-3 if precision == "fp32" else 0.05 * whole.float().abs().max().item())


def test_scores_are_those_of_the_cpu():
    lengths = (3, 40, 11, 100)
    items = [Item("d", str(n), 0, "a", ("".join(chr(97 + i * n % 26) for i in range(n)),), (n,)) for n in lengths]
    model, tokenizer = decoder(SHARINGS["cycle"], replace(SHAPE, vocabulary=257)), train_tokenizer([], 257)
    here, there = (score(DecoderScorer(model.to(device), tokenizer, 60), items) for device in ("cpu", "cuda"))
    assert there["nll_nats"].to_pylist() == pytest.approx(here["nll_nats"].to_pylist(), rel=1e-4)
    assert there.drop_columns(["nll_nats"]).equals(here.drop_columns(["nll_nats"]))


@pytest.mark.parametrize("width", [16, 48, 64, 128])
@pytest.mark.parametrize("length", [16, 200, 512])
def test_attention_in_training_is_the_formula_and_repeats_to_the_bit(width, length):
    heads, device = (4, 2, 2), torch.device("cuda", 0)
    drawn = [torch.randn(3, n, length, width, dtype=torch.float64) for n in (*heads, heads[0])]
    query, key, value, slope = (part.bfloat16() for part in drawn)
    exact = [part.double().requires_grad_() for part in (query, key, value)]
    wide_key, wide_value = (part.repeat_interleave(2, dim=1) for part in exact[1:])
    wanted = causal_attention(exact[0], wide_key, wide_value)
    wanted.backward(slope.double())

    torch._dynamo.reset()  # it compiles few widths and lengths in a row
    compiled = torch.compile(flex_causal_attention(length, width, device), fullgraph=True, dynamic=False)

    def found():
        parts = [part.to(device).requires_grad_() for part in (query, key, value)]
        mixed = compiled(*parts)
        mixed.backward(slope.to(device))
        return [mixed.detach(), *(part.grad for part in parts)]

    first, second = found(), found()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for one, other in zip(first, [wanted, *(part.grad for part in exact)], strict=True):
        assert (one.cpu().double() - other).norm() < 0.01 * other.norm()
