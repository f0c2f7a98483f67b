"""A decoder's scorer against a model and loops that share no code with it, one text at a time."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharelm.data.tokenizer import end_of_text, tokenizer_from, train_tokenizer
from sharelm.errors import InputError
from sharelm.evaluation import Scorer
from sharelm.evaluation.decoder import DecoderScorer
from tests.sharelm.models import SHAPE as SMALL
from tests.sharelm.models import SHARINGS, decoder
from tests.sharelm.reference import reference_logits

SHAPE = replace(SMALL, vocabulary=270)
TOKENIZER = tokenizer_from(
    train_tokenizer(["the stone is in the river, the river is in the stone. " * 9], 270).to_str()
)
END = end_of_text(TOKENIZER)
TEXTS = st.text(st.sampled_from("the stone\n river.,éあ"), max_size=40)
SCHEMES = ["cycle", "prelude_core_coda", "relaxed"]


def encode(text):
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def logits(model, tokens):
    """Logits [tokens, vocabulary] by the model's weights and plain torch."""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    return reference_logits(weights, SHAPE, model.sharing, torch.tensor([tokens]))[0]


def tokens_of(context, continuation):
    """The tokens of both, cut where the context's own end; its last blanks are the continuation's."""
    before = encode(context.rstrip())
    whole = encode(context + continuation)
    return before, whole[len(before) :]


def plainly(model, context, continuation):
    """(log probability, whether greedy) of a continuation that fits behind as much of its context as fits."""
    before, answer = tokens_of(context, continuation)
    text = [END, *before, *answer][-SHAPE.context - 1 :]
    if not answer:
        return 0.0, True
    said = logits(model, text[:-1])[-len(answer) :]
    chances = said.log_softmax(dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return chances.sum().item(), said.argmax(dim=-1).tolist() == answer


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(SCHEMES),
    st.lists(st.tuples(TEXTS, TEXTS).filter(lambda pair: len(tokens_of(*pair)[1]) <= SHAPE.context), max_size=6),
    st.sampled_from([1, 70, 10_000]),
)
def test_log_likelihoods_are_those_of_whole_sequences(scheme, requests, tokens_per_batch):
    model = decoder(SHARINGS[scheme], SHAPE)
    scorer: Scorer = DecoderScorer(model, TOKENIZER, tokens_per_batch)
    found = scorer.loglikelihood(requests)
    expected = [plainly(model, *request) for request in requests]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-4, abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert scorer.count_tokens([text for _, text in requests]) == [len(encode(text)) for _, text in requests]


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(SCHEMES), st.lists(st.text(st.sampled_from("the stone\nあ"), max_size=70), max_size=2))
def test_a_whole_text_is_scored_in_windows_that_overlap_as_lm_evals_do(scheme, texts):
    model = decoder(SHARINGS[scheme], SHAPE)
    expected = []
    for text in texts:
        tokens, size, total = [END, *encode(text)], SHAPE.context, 0.0
        for at in range(1, len(tokens)):
            end = min(-(-at // size) * size, len(tokens) - 1)  # last target of the window this token is in
            read = tokens[max(0, end - size) : at]
            total += logits(model, read)[-1].log_softmax(dim=-1)[tokens[at]].item()
        expected.append(total)
    found = DecoderScorer(model, TOKENIZER, 100).loglikelihood_rolling(texts)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def said_plainly(model, context, until, most):
    """Greedy decoding the plain way: a whole pass a token, looking for an end after each."""
    tokens = [END, *encode(context)][-(SHAPE.context - most) :]
    new = []
    while len(new) < most:
        token = logits(model, tokens + new)[-1].argmax().item()
        if token == END:
            break
        new.append(token)
    text = TOKENIZER.decode(new)
    for at in range(len(text) + 1):
        if any(text[at:].startswith(stop) for stop in until):
            return text[:at]
    return text


def chatty(scheme):
    """A model that says stop strings and, now and then, end of text; in double, so that rounding breaks no tie."""
    model, generator = decoder(SHARINGS[scheme], SHAPE).double(), torch.Generator().manual_seed(1)
    likely = [*encode("the stone is in the river, a stone.\n"), END]
    with torch.no_grad():
        model.embedding.copy_(torch.randn(model.embedding.shape, generator=generator) * 0.05)
        model.embedding[sorted(set(likely))] *= 5
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter *= 4
    return model


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(SCHEMES),
    st.lists(
        st.tuples(TEXTS, st.lists(st.sampled_from(["er", " the", "\n", "ss", "e,"]), max_size=2), st.integers(1, 8)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1, 60, 10_000]),
)
def test_what_is_generated_is_what_a_loop_over_whole_passes_says(scheme, requests, tokens_per_batch):
    model = chatty(scheme)
    asked = [(context, {"until": until, "max_gen_toks": most}) for context, until, most in requests]
    found = DecoderScorer(model, TOKENIZER, tokens_per_batch).generate_until(asked)
    assert found == [said_plainly(model, *request) for request in requests]


@pytest.mark.parametrize(
    ("until", "most", "said"),
    [
        ([], 99, "the stone is in the river"),
        ([" in"], 99, "the stone is"),
        (["river", " is", "in"], 99, "the stone"),  # the first in the text, not in the list
        (["absent"], 99, "the stone is in the river"),
        (["the"], 99, ""),
        ([], 1, TOKENIZER.decode(encode("the stone")[:1])),
    ],
)
def test_a_text_ends_at_the_first_stop_or_end_of_text(monkeypatch, until, most, said):
    tokens = [*encode("the stone is in the river"), END, *encode(" the stone")]
    monkeypatch.setattr("sharelm.evaluation.decoder.generate", lambda _, prompts, new: [tokens[:new] for _ in prompts])
    model = decoder(SHARINGS["cycle"], replace(SHAPE, context=128))
    scorer = DecoderScorer(model, TOKENIZER, 100)
    assert scorer.generate_until([("", {"until": until, "max_gen_toks": most})]) == [said]


def test_the_chatty_models_end_in_every_way():
    said = [said_plainly(chatty(scheme), start, [], 8) for scheme in SCHEMES for start in ("the", "stone", "n\n")]
    assert min(len(encode(text)) for text in said) < 8 == max(len(encode(text)) for text in said)
    assert any(stop in text for text in said for stop in (" the", "er"))


def test_a_prompt_keeps_what_fits_and_needs_room():
    model = chatty("cycle")
    scorer = DecoderScorer(model, TOKENIZER, 100)
    long, most = "the stone, the river. " * 9, SHAPE.context - 1
    assert scorer.generate_until([(long, {"until": [], "max_gen_toks": most})]) == [said_plainly(model, long, [], most)]
    with pytest.raises(InputError, match="max_gen_toks = 24 leaves no room for a prompt in the model's context of 24"):
        scorer.generate_until([("", {"until": [], "max_gen_toks": SHAPE.context})])


def test_no_requests_have_no_answers():
    scorer = DecoderScorer(decoder(SHARINGS["cycle"], SHAPE), TOKENIZER, 100)
    assert (scorer.loglikelihood([]), scorer.loglikelihood_rolling([]), scorer.generate_until([])) == ([], [], [])
    assert scorer.count_tokens([]) == []


def test_a_special_token_spelt_out_is_text():
    assert json.loads(TOKENIZER.to_str())["added_tokens"][0]["content"] == "<|endoftext|>"
    scorer = DecoderScorer(decoder(SHARINGS["cycle"], SHAPE), TOKENIZER, 100)
    assert scorer.count_tokens(["<|endoftext|>"])[0] > 1


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([*SCHEMES, "kv_last"]),
    st.lists(TEXTS, min_size=1, max_size=3),
    st.lists(TEXTS.filter(str.strip), min_size=2, max_size=4),
    st.sampled_from([1, 70, 10_000]),
)
@example("cycle", ["e", "e" * 15 + "あ"], ["e", "e", "eeeeeé"], 10_000)  # together they would pass the context
def test_answers_to_one_context_are_scored_as_if_each_were_alone(scheme, contexts, answers, tokens_per_batch):
    sharing = replace(SHARINGS["cycle"], kv="last") if scheme == "kv_last" else SHARINGS[scheme]
    model = decoder(sharing, SHAPE)
    requests = [(context, answer) for context in contexts for answer in answers]
    together = DecoderScorer(model, TOKENIZER, tokens_per_batch).loglikelihood(requests)
    alone = [DecoderScorer(model, TOKENIZER, 10_000).loglikelihood([request])[0] for request in requests]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], rel=1e-4, abs=1e-4)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
