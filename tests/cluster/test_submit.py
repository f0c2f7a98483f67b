"""Submitting to a real `ray start --head` with token authentication on."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT, user_environment

pytestmark = pytest.mark.slow
SMALL = [
    ('name = "quickstart"', 'name = "tiny"'),
    ("seeds = [0, 1]", "seeds = [0]"),
    ("max_bytes = 3_000_000", "max_bytes = 300_000"),
    ("tokens = 204_800", "tokens = 10_240"),
    ("tokens_per_step = 2048", "tokens_per_step = 1024"),
    ("warmup_steps = 10", "warmup_steps = 2"),
    ('[[variant]]                  # one block at all four depths\nname = "albert"\nscheme = "albert"\n', ""),
]
LONG = [('name = "quickstart"', 'name = "long"'), *SMALL[1:3], ("tokens = 204_800", "tokens = 204_800_000")]


def jobs(sharelm, head):
    return json.loads(sharelm("status", "--json", **head).stdout)["jobs"]


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_study_is_submitted_followed_and_not_submitted_twice(sharelm, study_file, head):
    path = study_file(*SMALL, name="tiny.toml")
    first = sharelm("submit", path, "--wait", **head, timeout=600)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "report: " in first.stdout
    (job,) = jobs(sharelm, head)
    assert (job["study"], job["status"], job["id"][-2:]) == ("tiny", "SUCCEEDED", "-1")

    again = sharelm("submit", path, **head)
    assert again.returncode == 0
    assert "has finished already" in again.stdout
    told = json.loads(sharelm("submit", path, "--json", **head).stdout)
    assert told == {"study": "tiny", "job": job["id"], "submitted": False, "store": job["store"]}
    assert len(jobs(sharelm, head)) == 1

    assert "report: " in sharelm("logs", "tiny", **head).stdout
    shown = sharelm("status", "tiny", **head).stdout
    assert "SUCCEEDED" in shown
    assert "tiny: 3 trials, 3 steps, 6 scores, 3 costs, 1 comparisons, 1 sharing_worth, 1 verdicts, 1 reports" in shown
    assert len(sharelm("verdict", "tiny", **head).stdout.splitlines()) >= 5
    assert "has ended already" in sharelm("stop", "tiny", **head).stdout
    planned = sharelm("plan", path, **head).stdout
    assert planned.splitlines()[-1].endswith("independent.s0.")


def test_a_running_study_is_not_submitted_twice_and_a_stopped_one_is(sharelm, study_file, head):
    path = study_file(*LONG, name="long.toml")
    assert "is submitted" in sharelm("submit", path, **head).stdout
    again = sharelm("submit", path, **head)
    assert again.returncode == 0
    assert "is pending already" in again.stdout or "is running already" in again.stdout
    until(lambda: "study long" in sharelm("logs", "long", **head).stdout, 240)
    stopped = sharelm("stop", "long", **head)
    assert (stopped.returncode, "STOPPED" in stopped.stdout) == (0, True)
    assert "is submitted" in sharelm("submit", path, **head).stdout
    attempts = {job["id"][-2:]: job["status"] for job in jobs(sharelm, head) if job["study"] == "long"}
    assert attempts.keys() == {"-1", "-2"}
    assert attempts["-1"] == "STOPPED" != attempts["-2"]
    sharelm("stop", "long", **head)


def test_a_study_that_changed_under_its_name_fails_with_the_drivers_exit_code(sharelm, study_file, head):
    changed = study_file(*SMALL, ("learning_rate = 3e-3", "learning_rate = 4e-3"), name="changed.toml")
    done = sharelm("submit", changed, "--wait", **head)
    assert done.returncode == 2
    assert "learning_rate" in done.stdout
    assert "may grow but not change" in done.stdout


def test_plain_ray_job_submit_runs_the_same_driver(sharelm, study_file, tmp_path, head):
    path = study_file(*SMALL, ('name = "tiny"', 'name = "plain"'), name="plain.toml")
    store = tmp_path / "plain"
    driver = ["python", "-m", "jobs.study", "--study", str(path), "--store", str(store)]
    done = subprocess.run(
        [Path(sys.executable).with_name("ray"), "job", "submit", "--working-dir", ".", "--", *driver],
        cwd=ROOT,
        env=user_environment(RAY_AUTH_MODE="token", RAY_ADDRESS=head["RAY_API_SERVER_ADDRESS"], **head),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report: " in done.stdout
    assert "starting workers" in done.stdout or "training: " in done.stdout
    assert sharelm("verdict", "plain", "--store", store).returncode == 0


@pytest.mark.parametrize(("token", "words"), [("wrong" * 8, "is not that cluster's"), (None, "there is no token")])
def test_without_the_right_token_everything_is_one_sentence(sharelm, study_file, tmp_path, head, token, words):
    named = tmp_path / "token"
    if token:
        named.write_text(token)
    environment = {**head, "RAY_AUTH_TOKEN_PATH": str(named)}
    for arguments in (["status"], ["submit", study_file()], ["logs", "tiny"], ["stop", "tiny"]):
        done = sharelm(*arguments, **environment)
        assert done.returncode == 2
        assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
        assert words in done.stderr
        assert "wrongwrong" not in done.stderr


def test_names_that_no_job_has(sharelm, head):
    done = sharelm("logs", "nobody", **head)
    assert done.returncode == 2
    assert "no job of study 'nobody'" in done.stderr


def test_doctor_finds_the_cluster_closed_to_others_and_asks_its_nodes(sharelm, tmp_path, cluster):
    store = f"{cluster.folder}/doctors-store"
    profile = tmp_path / "config" / "sharelm" / "config.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        f'[profile.lab]\naddress = "{cluster.url}"\nstore = "{store}"\n'
        f'token_file = "{cluster.token}"\nimage = "lab:1"\n'
    )
    done = sharelm("doctor", "--json", "--profile", "lab", timeout=400)
    findings = {one["check"]: one for one in json.loads(done.stdout)}
    assert findings["cluster"]["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.url}/api/jobs/", timeout=5)
    (node,) = {check.partition(" on ")[2] for check in findings if " on " in check}
    for check in ("python", "torch", "ray", "deepspeed", "pyarrow", "devices", "store", "disk", "clock"):
        assert findings[f"{check} on {node}"]["status"] == "ok", findings
    assert f"{store}: read what the driver wrote" in findings[f"store on {node}"]["found"]
    assert findings[f"image on {node}"]["status"] == "warn"  # it says none
    assert not [one for one in findings.values() if one["status"] == "fail"]
    assert not list(Path(store, ".check").iterdir())
