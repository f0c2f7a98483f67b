"""Secrets planted at the terminal and on the cluster are nowhere to be read after a study has been submitted."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_submit import SMALL
from tests.conftest import user_environment

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef" * 4  # of the cluster fixture
OWN = uuid.uuid4().hex[:12]  # of this run: whatever else this machine runs cannot show it
PLANTED = {
    "AWS_ACCESS_KEY_ID": f"PLANTEDKEY{OWN}",
    "AWS_SECRET_ACCESS_KEY": f"planted-s3-secret/{OWN}",
    "AWS_SESSION_TOKEN": f"planted-session-{OWN}",
    "SHARELM_WEBHOOK_URL": f"http://127.0.0.1:9/services/planted-hook-{OWN}",
    "SHARELM_WEBHOOK_SECRET": f"planted-hook-secret-{OWN}",
}
SECRETS = [value.encode() for value in (TOKEN, *PLANTED.values())]


@pytest.fixture(scope="module", autouse=True)
def on_the_cluster():
    """The nodes have these secrets too: the cluster's environment is this process's."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLANTED.items():
            patch.setenv(name, value)
        yield


class CommandLines(threading.Thread):
    """Every command line that this machine shows while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.over = set(), threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add("\0".join(process.info["cmdline"] or []))


def leaks(content):
    return [secret for secret in SECRETS if secret in content]


def leaking_files(folder):
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():  # Ray's sockets are no files
            told = leaks(path.read_bytes())
            if told:
                found[str(path)] = told
    return found


def told_by(url, path):
    request = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def test_no_secret_is_told_by_a_study_that_was_submitted(on_the_cluster, cluster, study_file, tmp_path):
    store = f"{cluster.folder}/store"
    path = study_file(*SMALL, name="tiny.toml")
    options = ["--address", cluster.url, "--store", store]
    environment = user_environment(RAY_AUTH_TOKEN=TOKEN, XDG_CONFIG_HOME=str(tmp_path / "config"), **PLANTED)

    def sharelm(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=500,
        )

    watched = CommandLines()
    watched.start()
    done = sharelm("submit", path, *options, "--wait")
    watched.over.set()
    watched.join()
    assert done.returncode == 0, done.stdout + done.stderr
    # what was watched is what ran, on both sides, and the secrets were there
    assert any("cluster.cli\0submit" in line for line in watched.seen)
    assert any("jobs.study\0--study" in line for line in watched.seen)
    raylet = next(one for one in psutil.Process(cluster.pid).children(recursive=True) if "raylet" in one.name())
    assert PLANTED.items() <= raylet.environ().items()

    assert leaks(done.stdout + done.stderr) == []
    assert [line for line in watched.seen if leaks(line.encode())] == []
    (job,) = json.loads(told_by(cluster.url, "/api/jobs/"))
    assert job["status"] == "SUCCEEDED"
    assert leaks(json.dumps(job).encode()) == []
    logs = told_by(cluster.url, f"/api/jobs/{job['submission_id']}/logs")
    assert b"report: " in logs
    assert leaks(logs) == []
    for command in (["logs", "tiny"], ["status", "--json"], ["doctor", "--json"]):
        said = sharelm(*command, *(options if command[0] != "logs" else options[:2]))
        assert leaks(said.stdout + said.stderr) == []
    assert list(Path(store).glob("reports/*/*/*.html"))
    assert leaking_files(store) == {}
    assert list(Path(cluster.folder, "ray").rglob("job-driver-*.log"))
    time.sleep(1)  # what Ray logs late
    assert leaking_files(Path(cluster.folder, "ray")) == {}


def test_the_search_finds_what_is_there(tmp_path):
    for number, secret in enumerate(SECRETS):
        (tmp_path / str(number)).write_bytes(b"... " + secret + b"\n")
    assert len(leaking_files(tmp_path)) == len(SECRETS)
    watched = CommandLines()
    watched.start()
    subprocess.run([sys.executable, "-c", "import time; time.sleep(2)", PLANTED["SHARELM_WEBHOOK_SECRET"]], check=True)
    watched.over.set()
    watched.join()
    assert [line for line in watched.seen if leaks(line.encode())]
