"""Study files small enough for a test, and the driver as a process that can be watched and killed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
        small[section] = {**small[section], **values} if isinstance(values, dict) else values
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


def until(condition: Any, process: subprocess.Popen[str], seconds: float = 240) -> Any:
    """Wait until this holds, as long as the process runs; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def manifests(store: Path | str) -> dict[str, bytes]:
    """Every manifest of a local store, by its path."""
    return {str(path.relative_to(store)): path.read_bytes() for path in Path(store).rglob("manifest.json")}
