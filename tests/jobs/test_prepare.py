"""Preparing a study's data alone: committed once, found by the driver, and neither Ray nor a record of the study."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jobs.prepare
import jobs.session
import jobs.study
from sharelm.store import open_store
from sharelm.store.studies import latest_study, record_study
from sharelm.study import load_study
from tests.jobs.studies import manifests, write_study


def prepare(path: Path, store: Path, *more: str) -> int:
    return jobs.prepare.main(["--study", str(path), "--store", str(store), *more])


def test_the_driver_finds_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path, store = write_study(tmp_path), tmp_path / "store"
    assert prepare(path, store) == 0
    out, err = capsys.readouterr()
    (manifest,) = open_store(str(store)).manifests("data")
    assert err == "preparing data\n"
    assert out.startswith(f"data of study 'small' are prepared in {store}: ")
    assert f" {manifest.facts['training_tokens']:,} training and " in out
    assert manifest.step in out
    there = manifests(store)
    assert len(there) == 1
    assert latest_study(open_store(str(store)), "small") is None

    assert prepare(path, store) == 0
    out, err = capsys.readouterr()
    assert (err, out.startswith(f"data of study 'small' were there already in {store}: ")) == ("", True)
    assert prepare(path, store, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "store": str(store),
        "study": "small",
        "step": manifest.step,
        **manifest.facts,
    }

    class RayStartedError(Exception):
        pass

    def no_ray(*_) -> None:
        raise RayStartedError

    monkeypatch.setattr(jobs.session, "ray_session", no_ray)
    with pytest.raises(RayStartedError):
        jobs.study.main(["--study", str(path), "--store", str(store)])
    assert "preparing data" not in capsys.readouterr().err
    assert manifests(store) == there


def test_what_is_wrong_is_one_sentence_and_nothing_is_committed(tmp_path: Path, capsys: Any) -> None:
    store = tmp_path / "store"
    path = write_study(tmp_path)
    record_study(open_store(str(store)), load_study(path), "small.toml")
    changed = write_study(tmp_path, "changed.toml", training={"learning_rate": 2e-2})
    assert prepare(changed, store) == 2
    assert "may grow but not change" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("\n")
    assert prepare(path, store) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert "text.txt is empty" in err
    assert manifests(store) == {}


def test_preparing_starts_no_ray_and_needs_neither_a_gpu_nor_torch(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    code = (
        f"import sys, jobs.prepare; assert jobs.prepare.main(['--study', {str(path)!r}, '--store', 'store']) == 0\n"
        "print(sorted({'ray', 'deepspeed', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
