"""The steps of a study and the digests that name them: what decides a step's result, and nothing else.

No framework is imported here: the driver must be able to say that a study is finished within seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharelm.digest import code_digest, digest, package_digest
from sharelm.errors import InputError
from sharelm.machine import Machine
from sharelm.study import Arm, Study, Trial, proxied
from sharelm.study.cost import Workload
from sharelm.study.evaluation import Task
from sharelm.study.task_files import task_texts
from sharelm.study.tree import EXECUTION_SETTINGS

_CACHES = ("sharelm.model.caches", "sharelm.model.generation")  # of decoding: no model is trained with them
TRAIN, PROXY, SPEED = (
    "sharelm.training.trial:train_trial",
    "sharelm.training.tune:train_proxy",
    "sharelm.training.speed:measure_speeds",
)
SCORE = (
    "sharelm.evaluation:task_items",
    "sharelm.evaluation:shard",
    "sharelm.evaluation:score",
    "sharelm.evaluation.decoder:DecoderScorer",
    "sharelm.data.tokenizer:tokenizer_from",
    "sharelm.model:load_model",
)
COST = ("sharelm.cost.measurement:measure",)
JUDGE = ("sharelm.statistics.compare:compare", "sharelm.verdict.decide:decide")


def _learning(study: Study, arm: Arm, machine: Machine) -> dict[str, Any]:
    """What decides how an arm learns on this machine, but for its seed and the data."""
    settings = arm.training(study.training).model_dump(mode="json")
    left_out = {"training.tune", *EXECUTION_SETTINGS}
    training = {key: value for key, value in settings.items() if f"training.{key}" not in left_out}
    return {
        "arm": arm.name,
        "shape": asdict(arm.shape),
        "sharing": asdict(arm.sharing),
        "training": {**training, "device": machine.device, "precision": machine.precision},
    }


def trial_step(study: Study, trial: Trial, data: str, machine: Machine, night: str | None = None) -> str:
    """Names a trial's step in the tables `steps` and `trials`; of a night, it is trained anew each night."""
    return digest(
        {
            "step": "train",
            **_of_night(night),
            **_learning(study, trial.arm, machine),
            "seed": trial.seed,
            "data": data,
            "code": code_digest(TRAIN, outside=_CACHES),
        }
    )


def _of_night(night: str | None) -> dict[str, str]:
    return {} if night is None else {"night": night}


def trained(trial: str) -> dict[str, Any]:
    """The origin of the model that a trial (by its step) trained."""
    return {"kind": "trained", "trial": trial}


def model_step(origin: Mapping[str, Any]) -> str:
    """Names a model by its origin, which decides its weights and its tokenizer."""
    return digest({"step": "model", "origin": origin})


def proxy_step(study: Study, proxy: Trial, data: str, machine: Machine) -> str:
    """Names what a proxy found; the arms that share its model share it, so their names do not enter."""
    learning = _learning(proxied(study), proxy.arm, machine)
    del learning["arm"]
    return digest(
        {"step": "proxy", **learning, "seed": proxy.seed, "data": data, "code": code_digest(PROXY, outside=_CACHES)}
    )


def rule_digest(study: Study) -> str:
    """Names the rule by which a study is judged: its thresholds, and the code of its statistics and its verdict."""
    thresholds = {name: getattr(study, name).model_dump(mode="json") for name in ("kpi", "rollout")}
    return digest({"rule": thresholds, "code": code_digest(*JUDGE)})


def speed_step(study: Study, pair: tuple[Arm, Arm], machine: Machine) -> str:
    """Names the measured training speeds of a variant and the model of its time twin on this device."""
    return digest(
        {
            "step": "speed",
            "pair": [_learning(study, arm, machine) for arm in pair],
            "device": machine.device_name,
            "code": code_digest(SPEED, outside=_CACHES),
        }
    )


def score_step(model: str, task: Task, shard: int, base: Path) -> str:
    """Names the scores of one model (by its step) on one shard of a task."""
    return digest(
        {
            "step": "score",
            "model": model,
            "task": task.model_dump(mode="json", exclude={"file"}),
            "shard": shard,
            "file": file_digest(task, base),
            "code": code_digest(*SCORE),
        }
    )


def cost_step(model: str, workload: Workload, study: Study, machine: Machine) -> str:
    """Names the measured costs of one model (by its step) under one workload."""
    return digest(
        {
            "step": "cost",
            "model": model,
            "workload": workload.model_dump(mode="json"),
            "device": machine.device_name,
            "price": [study.cost.price_per_hour, study.cost.currency],
            "code": code_digest(*COST),
        }
    )


def report_step(study: Study, data: str, base: Path, night: str | None = None) -> str:
    """Names a study's comparisons, verdicts and report (of one night); where it is committed, the study is finished."""
    tree: dict[str, Any] = study.tree()
    return digest(
        {
            "step": "report",
            **_of_night(night),
            "study": tree,
            "data": data,
            "files": [file_digest(task, base) for task in study.evaluation.task],
            "code": package_digest("sharelm", "jobs"),
        }
    )


def night_step(study: str, night: str) -> str:
    """Names a study's night in the table `history`: a night that is tried again is the same night."""
    return digest({"step": "night", "study": study, "night": night})


def file_digest(task: Task, base: Path) -> str | None:
    """Digest of the content of a task's files; None for a task on held-out documents."""
    if task.traits.reads == "task":
        return digest(task_texts(task, base))
    if task.file is None:
        return None
    try:
        return hashlib.sha256(Path(base, task.file).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"evaluation.task {task.name!r}: file = {task.file!r} cannot be read: {error.strerror}"
        ) from None
