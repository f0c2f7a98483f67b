"""Study files small enough for a test, and the driver as a process that can be watched and killed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from sharelm.data import data_spec, open_corpus
from sharelm.digest import digest
from sharelm.machine import Machine
from sharelm.model import Decoder
from sharelm.steps import trial_step
from sharelm.store import open_store
from sharelm.study import Study, expand, load_study
from sharelm.training import checkpoint
from sharelm.training.engine import build_engine, deepspeed_config
from sharelm.training.trial import train_trial
from tests.conftest import user_environment
from tests.sharelm.small import TREE, text_folder

QUESTIONS = [{"query": "The river is", "choices": [" green", " seven"], "gold": i % 2} for i in range(12)]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def tree(**changes: Any) -> dict[str, Any]:
    """The small study, every line of its text a document; a change is a section's name and what it overrides."""
    small = copy.deepcopy(TREE)
    small["data"]["source"][0]["document_start"] = "^"
    small["data"]["validation_fraction"] = 0.1
    for section, values in changes.items():
        small[section] = {**small.get(section, {}), **values} if isinstance(values, dict) else values
    return small


def write_study(folder: Path, name: str = "small.toml", **changes: Any) -> Path:
    """The study's file, with its text and some multiple-choice questions beside it."""
    text_folder(folder)
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    path = folder / name
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in tree(**changes).items()), encoding="utf-8")
    return path


def start(path: Path, store: Path | str, **environment: str) -> subprocess.Popen[str]:
    """The driver, started; it leads a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.study", "--study", str(path), "--store", str(store)],
        cwd=path.parent,
        env=user_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def run(path: Path, store: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The driver, run to its end."""
    process = start(path, store, **environment)
    out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(condition: Any, process: subprocess.Popen[str], seconds: float = 240) -> Any:
    """Wait until this holds, as long as the process runs; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def started(pid: int, words: str) -> list[psutil.Process]:
    """What this process started, directly or not, whose command line has these words, by pid."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.pid)


def manifests(store: Path | str) -> dict[str, bytes]:
    """Every manifest of a local store, by its path."""
    return {str(path.relative_to(store)): path.read_bytes() for path in Path(store).rglob("manifest.json")}


def losses(store: Path | str, trial: str) -> list[float]:
    """The losses of every step of a trial."""
    rows = open_store(str(store)).read("steps", "small").to_pylist()
    own = sorted((row["training_step"], row["loss_nats"]) for row in rows if row["trial"] == trial)
    assert [step for step, _ in own] == list(range(1, len(own) + 1))
    return [loss for _, loss in own]


CPU = Machine("cpu", "fp32", "test")  # the name of the device names no trial


def _data(path: Path) -> tuple[Study, str]:
    study = load_study(path)
    return study, digest(data_spec(study.data, study.model.context, path.parent))


def train_without_ray(path: Path, prepared: str, index: int, store: str) -> None:
    """Train the study's trial of this index on the corpus of a store, in the process group that is there."""
    study, data = _data(path)
    source = open_store(prepared)
    corpus = open_corpus(source, source.find("data", study.name, data))
    trial = expand(study).trials[index]
    name = trial_step(study, trial, data, CPU)
    train_trial(study, trial, corpus, name, CPU, open_store(store), lambda *_: None)


def plant_checkpoint(path: Path, index: int, store: str, weight: float) -> None:
    """Commit a checkpoint after one step in which every weight of the trial of this index is `weight`."""
    study, data = _data(path)
    trial = expand(study).trials[index]
    model = Decoder(trial.arm.shape, trial.arm.sharing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)
    config = deepspeed_config(study.training, trial.arm.shape.context, 1, CPU.precision)
    engine = build_engine(model, study.training, config, torch.device("cpu"))
    name = trial_step(study, trial, data, CPU)
    planted = checkpoint.Checkpoints(engine, open_store(store), study.name, name)
    planted.save(checkpoint.Progress(1, [5.0], [1.0], [1.0], 1.0, 0, []))
    planted.wait()
