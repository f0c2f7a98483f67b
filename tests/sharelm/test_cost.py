"""Measured cost against closed forms, planted delays and known allocations."""

import pytest
import torch

from sharelm.closed_form.footprint import footprint
from sharelm.cost import measurement
from sharelm.cost.measurement import measure
from sharelm.cost.memory import peak_bytes
from sharelm.cost.money import cost_of_seconds, cost_per_1m_tokens
from sharelm.cost.serving import Request, graphed
from sharelm.machine import Machine
from sharelm.model import save_weights
from sharelm.study.cost import Cost, Workload
from sharelm.tables import TABLES
from tests.sharelm.models import SHAPE, SHARINGS, decoder, fitting

CPU = Machine("cpu", "fp32", "a processor")
WORKLOAD = Workload(name="chat", batch=3, prompt_tokens=10, new_tokens=5, repeats=4)


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch):
    monkeypatch.setattr(measurement, "WARM_UP_SECONDS", {"cpu": 0, "cuda": 0})


def measured(folder, scheme="cycle", workload=WORKLOAD, machine=CPU, price=1.8):
    model = decoder(SHARINGS[scheme])
    save_weights(model, folder / scheme, torch.bfloat16 if machine.precision == "bf16" else torch.float32)
    cost = Cost(price_per_hour=price, currency="EUR", assumed_tflops=1, workload=[workload])
    return measure(folder / scheme, workload, machine, cost)


def test_money_in_closed_form():
    assert cost_of_seconds(3600, 1, 2.5) == 2.5
    assert cost_of_seconds(1800, 8, 2.5) == 10
    assert cost_of_seconds(0, 8, 2.5) == 0
    assert cost_per_1m_tokens(1e6 / 3600, 2.5) == pytest.approx(2.5)  # a million an hour
    assert cost_per_1m_tokens(1000, 3.6) == pytest.approx(1)
    assert cost_per_1m_tokens(1000, 0) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scheme", SHARINGS)
def test_bytes_are_those_of_the_closed_forms(scheme, precision, tmp_path):
    machine = Machine("cpu", precision, "a processor")
    row = measured(tmp_path, scheme, WORKLOAD.model_copy(update={"repeats": 1}), machine)
    expected, size = footprint(fitting(SHARINGS[scheme]), SHARINGS[scheme]), 4 if precision == "fp32" else 2
    assert row["weights_bytes"] == expected.weight_bytes(size)
    assert row["kv_bytes"] == 3 * 15 * expected.kv_bytes_per_token(size)
    assert row["disk_bytes"] == (tmp_path / scheme).stat().st_size > row["weights_bytes"]
    assert row["peak_bytes"] == row["weights_bytes"] + row["kv_bytes"] + row["rest_bytes"]
    logits = 3 * SHAPE.vocabulary * size
    assert logits < row["rest_bytes"]


def test_a_row_has_every_column_of_the_table_and_adds_up(tmp_path):
    row = measured(tmp_path)
    assert set(row) == set(TABLES["costs"].names) - {"trial", "arm", "seed"}
    assert (row["device"], row["precision"], row["workload"]) == ("a processor", "fp32", "chat")
    assert (row["batch"], row["prompt_tokens"], row["new_tokens"], row["currency"]) == (3, 10, 5, "EUR")
    assert row["cost_per_1m_tokens"] == pytest.approx(1.8 / 3600 * 1e6 / row["generated_tokens_per_second"])
    assert 0 < row["prefill_ms_p50"] <= row["prefill_ms_p95"]
    assert 0 < row["decode_ms_p50"] <= row["decode_ms_p95"]
    assert row["load_seconds"] > 0


class Clock:
    """A clock that stands still unless something takes time."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_planted_delays_are_measured(tmp_path, monkeypatch):
    """A prefill takes 40 ms and a decoding step 15 ms; the first request is slower and must not count."""
    calls, clock = [], Clock()
    monkeypatch.setattr(measurement, "time", clock)

    def take_time(model, args):
        calls.append(args[0].shape[1])
        first = calls.count(WORKLOAD.prompt_tokens) == 1
        clock.now += 0.1 if first else 0.04 if args[0].shape[1] > 1 else 0.015

    def slow(*args):
        model = real(*args)
        model.register_forward_pre_hook(take_time)
        return model

    real = measurement.load_model
    monkeypatch.setattr(measurement, "load_model", slow)
    monkeypatch.setattr(measurement, "WARM_UP_SECONDS", {"cpu": 0.55})  # the first request takes 0.5, the next 0.1
    row = measured(tmp_path)
    assert row["prefill_ms_p50"] == row["prefill_ms_p95"] == pytest.approx(40)
    assert row["decode_ms_p50"] == row["decode_ms_p95"] == pytest.approx(15)
    assert row["generated_tokens_per_second"] == pytest.approx(3 * 5 / (0.04 + 4 * 0.015))
    requests = 2 + WORKLOAD.repeats
    assert calls == [10, 1, 1, 1, 1] * requests + [10, 1]  # the last counts memory: its two extremes


def test_a_request_of_one_new_token_decodes_nothing(tmp_path):
    row = measured(tmp_path, workload=WORKLOAD.model_copy(update={"new_tokens": 1}))
    assert row["decode_ms_p50"] is None
    assert row["decode_ms_p95"] is None
    assert row["generated_tokens_per_second"] == pytest.approx(3e3 / row["prefill_ms_p50"])


def test_what_is_served_is_what_generation_gives(tmp_path):
    from sharelm.model import generate

    model = decoder(SHARINGS["cycle"])
    with torch.inference_mode():
        request = Request(model, WORKLOAD)
        tokens = [step() for step in request.steps()]
    assert torch.cat(tokens, dim=1).tolist() == generate(model, request.prompt.tolist(), WORKLOAD.new_tokens)


def test_peak_of_known_allocations():
    def run():
        first = torch.zeros(250_000)  # 1 MB
        second = first.clone()  # 2 MB at once: the most
        del first
        return second[:10].clone()

    held = torch.zeros(1_000_000)
    assert peak_bytes(run, held.device) == 2_000_000
    assert peak_bytes(lambda: None, held.device) == 0


def test_a_loop_saves_weights_and_no_cache(tmp_path):
    looped, independent = measured(tmp_path, "albert"), measured(tmp_path, "independent")
    assert looped["kv_bytes"] == independent["kv_bytes"]
    assert looped["weights_bytes"] < independent["weights_bytes"]
    assert looped["rest_bytes"] == independent["rest_bytes"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cost_on_a_gpu(tmp_path):
    row = measured(tmp_path, machine=Machine("cuda", "bf16", torch.cuda.get_device_name()))
    expected = footprint(SHAPE, SHARINGS["cycle"])
    assert row["weights_bytes"] == expected.weight_bytes(2)
    assert row["kv_bytes"] == 3 * 15 * expected.kv_bytes_per_token(2)
    assert row["rest_bytes"] > 3 * SHAPE.vocabulary * 2
    assert 0 < row["decode_ms_p50"] < 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", SHARINGS)
def test_graphed_steps_serve_the_same_tokens_again_and_again(scheme):
    model = decoder(SHARINGS[scheme]).to("cuda").eval()
    with torch.inference_mode():
        request = Request(model, WORKLOAD)
        eager = [step().tolist() for step in request.steps()]
        steps = graphed(request)
        for _ in range(3):
            request.caches.keys.random_()  # what a request leaves there is no part of the next
            assert [step().tolist() for step in steps] == eager
