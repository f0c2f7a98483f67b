"""Nights of a small study through its driver: usual, lost quality, accepted, could not run, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharelm.store import open_store
from tests.conftest import user_environment
from tests.jobs.studies import manifests, write_study

LEARNS_NOTHING = """
import importlib.abc, sys

class Plant(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "sharelm.training.run":
            import sharelm.training.rate
            sharelm.training.rate.learning_rate = lambda *_: 1e-9

sys.meta_path.insert(0, Plant())
"""


def nightly(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    command = [sys.executable, "-m", "cluster.cli", "nightly", *arguments]
    return subprocess.run(
        command, cwd=folder, env=user_environment(**environment), capture_output=True, text=True, timeout=400
    )


def test_nights_from_usual_to_worse_to_accepted(tmp_path: Path) -> None:
    path, store = write_study(tmp_path), tmp_path / "store"
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(LEARNS_NOTHING, encoding="utf-8")
    given = (str(path), "--store", str(store))

    planned = nightly(tmp_path, *given, "--plan")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "Measured anew: 3 trials" in planned.stdout
    assert not store.exists()

    first = nightly(tmp_path, *given, "--night", "2026-01-01", "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["exit_code"], told["lines"]) == (
        0,
        [f"Night 2026-01-01 of study small: none of {len(told['metrics'])} metrics is worse."],
    )
    assert Path(told["page"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    committed = manifests(store)
    again = nightly(tmp_path, *given, "--night", "2026-01-01", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, told)
    assert manifests(store) == committed

    second = nightly(tmp_path, *given, "--night", "2026-01-02", PYTHONPATH=str(tmp_path / "plant"))
    assert second.returncode == 3, second.stderr
    assert "Held-out loss of independent/held_out is worse since 2026-01-02" in second.stdout
    assert "Traceback" not in second.stderr
    losses = {row["night"]: row["value"] for row in rows(store) if row["metric"] == "loss_nats_per_token"}
    assert losses["2026-01-02"] > losses["2026-01-01"] + 0.5
    data = [manifest for manifest in manifests(store) if manifest.startswith("data/")]
    assert len(data) == 1  # reused

    for arguments, sentence in (
        (("--accept", "nothing", "--reason", "x"), "--accept = 'nothing' is no metric of study 'small'"),
        (("--accept", "bits_per_byte"), "--accept and --reason belong together"),
        (("--accept", "bits_per_byte", "--reason", " "), "--reason is empty"),
    ):
        refused = nightly(tmp_path, *given, *arguments)
        assert refused.returncode == 2
        assert sentence in refused.stderr
    for metric in ("loss_nats_per_token", "bits_per_byte"):
        accepted = nightly(tmp_path, *given, "--accept", metric, "--reason", "a smaller rate")
        assert accepted.stdout == f"the baseline of {metric} is night 2026-01-02 from now on\n"
    (kept,) = {(row["reason"], row["night"]) for row in open_store(str(store)).read("baselines", "small").to_pylist()}
    assert kept == ("a smaller rate", "2026-01-02")

    third = nightly(tmp_path, *given, "--night", "2026-01-03", PYTHONPATH=str(tmp_path / "plant"))
    assert third.returncode == 0, third.stdout
    quality = [row for row in rows(store) if row["night"] == "2026-01-03" and not row["relative"]]
    assert {(row["state"], row["baseline_night"], row["change"]) for row in quality} == {("well", "2026-01-02", 0.0)}
    shown = nightly(tmp_path, *given, "--plan", "--night", "2026-01-03").stdout
    assert "committed already" in shown
    assert "a smaller rate" in shown


def rows(store: Path) -> list[dict[str, object]]:
    return open_store(str(store)).read("history", "small").to_pylist()


def test_a_study_that_cannot_run_is_no_study_that_got_worse(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    done = nightly(tmp_path, str(path), "--store", "store", "--night", "2026-01-01", RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout.startswith("Night 2026-01-01 of study small could not run: RAY_ADDRESS = '127.0.0.1:1': no Ray")
    assert "Traceback" not in done.stderr
    assert open_store(str(tmp_path / "store")).manifests("history", "small") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--night", "yesterday"), "--night = 'yesterday' is no date; give one such as 2026-11-28"),
        (("missing.toml",), "missing.toml"),
        (("--accept", "accuracy", "--reason", "x"), "study 'small' has no night in"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    path = write_study(tmp_path)
    done = nightly(tmp_path, str(path), "--store", "store", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
