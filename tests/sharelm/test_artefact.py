"""A model as an artefact: named by its origin, with all that scoring and serving need."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from sharelm.artefact import MODELS, commit_model, open_model
from sharelm.errors import IntegrityError
from sharelm.machine import Machine
from sharelm.model import Decoder, load_model, save_weights
from sharelm.steps import model_step, trained, trial_step
from sharelm.store import open_store
from sharelm.study import expand
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import RandomCorpus, small_study

CPU = Machine("cpu", "fp32", "test")


def _train(store: str) -> None:
    study = small_study()
    trial = expand(study).trials[1]
    name = trial_step(study, trial, "data", CPU)
    train_trial(study, trial, RandomCorpus(), name, CPU, open_store(store), lambda *_: None)


def test_a_trial_leaves_a_model_that_its_origin_names(tmp_path: Path) -> None:
    on_ranks(1, _train, str(tmp_path))
    study, store = small_study(), open_store(str(tmp_path))
    trial = expand(study).trials[1]
    origin = trained(trial_step(study, trial, "data", CPU))
    (manifest,) = store.manifests(MODELS, study.name)
    assert manifest.step == model_step(origin)
    found = open_model(store, study.name, manifest.step)
    assert found.origin == origin
    assert found.tokenizer == RandomCorpus.tokenizer_json
    model = load_model(found.weights)
    assert (model.shape, model.sharing) == (trial.arm.shape, trial.arm.sharing)
    assert store.find("trials", study.name, origin["trial"]).facts == {"error": None}
    assert {name: manifest.facts[name] for name in trial.labels} == trial.labels


def test_a_model_comes_back_whatever_its_origin(tmp_path: Path) -> None:
    arm = expand(small_study()).arms[1]
    weights, store = tmp_path / "drawn", open_store(str(tmp_path / "store"))
    save_weights(Decoder(arm.shape, arm.sharing).initialise(3), weights)
    origin = {"kind": "drawn", "seed": 3}
    name = model_step(origin)
    commit_model(store, "s", name, weights, '{"a": "ä"}', origin, {"arm": "any"})
    found = open_model(store, "s", name)
    assert (found.tokenizer, found.origin) == ('{"a": "ä"}', origin)
    assert load_file(found.weights).keys() == load_file(weights).keys()
    assert found.weights.read_bytes() == weights.read_bytes()
    assert name != model_step({"kind": "drawn", "seed": 4})


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="study 's' has no model abc in"):
        open_model(open_store(str(tmp_path)), "s", "abc")
