"""Fixtures that several rooms share: a store, the command line as a user runs it, a Ray cluster that wants a token."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.loopback import free_ports

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "tests" / "study.toml"
NICENESS = {"RAY_worker_niceness": "0"}  # not 15: a cluster's workers would wait for all tests that run beside it
OF_A_USER = ("SHARELM_", "RAY_", "AWS_")  # settings of whoever runs the tests that a command would read


def user_environment(**more):
    """The environment of a user who has set nothing but this."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OF_A_USER)}
    return {**clean, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", **more}


@pytest.fixture
def s3_uri(tmp_path, monkeypatch):
    """A prefix of its own on a real S3 server, which `infra/local-s3/server.sh start DIR` starts and names."""
    named = os.environ.get("SHARELM_TEST_S3", "")
    if not named.startswith("s3://"):
        pytest.skip(named or "no S3 server: SHARELM_TEST_S3 is not set (infra/local-s3/server.sh start DIR)")
    monkeypatch.setenv("SHARELM_CACHE", str(tmp_path / "cache"))
    return f"{named}/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store_uri(request, tmp_path):
    """An empty store: a local folder, then (marked s3) a real S3 server."""
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_uri")


@pytest.fixture
def sharelm(tmp_path):
    """Call it with arguments (and environment variables): the finished process, output as text."""

    def call(*arguments, timeout=120, **environment):
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=user_environment(**{"XDG_CONFIG_HOME": str(tmp_path / "config"), **environment}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture
def study_file(tmp_path):
    """Call it with (old, new) replacements in the quickstart's text: the path of the study they make."""

    def write(*replacements, name="study.toml"):
        text = QUICKSTART.read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=2):
            return True
    except urllib.error.HTTPError:  # it wants a token
        return True
    except OSError:
        return False


@dataclass(frozen=True)
class Cluster:
    """A running `ray start --head`: its job server, its address for drivers, its token's file, a folder, its pid."""

    url: str
    address: str
    token: str
    folder: str
    pid: int


class Head:
    """A `ray start --head` of 2 CPUs that wants a token; once killed it starts again in its folder, at its ports."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.token = self.folder / "token"
        self.token.write_text("0123456789abcdef" * 4)
        self.token.chmod(0o600)
        names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
        names += ("metrics-export-port", "ray-client-server-port", "runtime-env-agent-port")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._process = None

    def start(self, **more):
        """Start it, with more in its environment, and wait until it answers."""
        programs = str(Path(sys.executable).parent)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = {
            **inherited,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "OMP_NUM_THREADS": "1",
            **NICENESS,
            **more,
        }
        options = [f"--{name}={port}" for name, port in self._ports.items()]
        options += ["--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}/ray"]
        options += ["--num-cpus=2", "--disable-usage-stats", "--block"]
        current = self.folder / "ray" / "ray_current_cluster"  # its address, never a loopback one
        current.unlink(missing_ok=True)
        log = self.folder / "head.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [f"{programs}/ray", "start", "--head", *options],
                env=environment,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        url = f"http://127.0.0.1:{self._ports['dashboard-port']}"
        deadline = time.monotonic() + 120
        while not (current.is_file() and answers(url)):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return Cluster(url, current.read_text().strip(), str(self.token), str(self.folder), self._process.pid)

    def kill(self):
        """Kill it and all that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        started = psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for child in started:  # workers and agents that have left the group
            if child.is_running():
                child.kill()
        psutil.wait_procs(started, timeout=10)


@contextmanager
def a_head():
    """A head's folder and settings, not yet started; killed in the end."""
    with tempfile.TemporaryDirectory(prefix="slt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = Head(folder)
        try:
            yield head
        finally:
            head.kill()


def user_of(cluster):
    """The environment of a user who sends jobs to this cluster."""
    return {
        "RAY_API_SERVER_ADDRESS": cluster.url,
        "RAY_AUTH_TOKEN_PATH": cluster.token,
        "SHARELM_STORE": f"{cluster.folder}/store",
    }


def driver_of(cluster):
    """The environment of a driver that joins this cluster."""
    return {"RAY_ADDRESS": cluster.address, "RAY_AUTH_TOKEN_PATH": cluster.token, "RAY_AUTH_MODE": "token"}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of 2 CPUs that wants a token."""
    with a_head() as head:
        yield head.start()


@pytest.fixture(scope="module")
def head(cluster):
    """The environment of a user who sends jobs to the cluster."""
    return user_of(cluster)


@pytest.fixture(scope="module")
def inside(cluster):
    """The environment of a driver that joins the cluster."""
    return driver_of(cluster)
