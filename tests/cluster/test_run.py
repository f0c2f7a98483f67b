"""`sharelm run` is the driver itself: its output, its exit code, its Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sharelm.store import open_store
from tests.cluster.test_submit import SMALL
from tests.conftest import user_environment


@pytest.mark.parametrize("command", ["run", "prepare"])
def test_the_drivers_refusal_is_the_exit_code(sharelm, study_file, tmp_path, command):
    (tmp_path / "jobs").mkdir()  # in the current directory, and not what is to be run
    for name in ("study.py", "prepare.py"):
        (tmp_path / "jobs" / name).write_text("raise SystemExit(99)")
    (tmp_path / "taken").write_text("a file where the store should be")
    done = sharelm(command, study_file(), "--store", "taken/store")
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_are_prepared_once(sharelm, study_file, tmp_path):
    path = study_file(*SMALL)
    for said in ("are prepared", "were there already"):
        done = sharelm("prepare", path, "--store", "store")
        assert done.returncode == 0, done.stderr
        assert f"data of study 'tiny' {said} in store: " in done.stdout
    assert [manifest.study for manifest in open_store(str(tmp_path / "store")).manifests("data")] == ["tiny"]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_what_was_committed_stays(study_file, tmp_path):
    path = study_file(
        *SMALL, ("tokens = 10_240", "tokens = 1_024_000"), ("checkpoint_steps = 50", "checkpoint_steps = 10")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "run", str(path), "--store", "store"],
        cwd=tmp_path,
        env=user_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    store = open_store(str(tmp_path / "store"))
    deadline = time.monotonic() + 120
    while not store.manifests("checkpoints", "tiny"):  # a trial is under way
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert store.manifests("data", "tiny")
    assert store.manifests("checkpoints", "tiny")
