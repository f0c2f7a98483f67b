"""Clusters that are refused before anything is sent, each in one sentence and within seconds."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import ray

from cluster.access import ClusterError, check_insecure, greet, is_loopback, same_release
from sharelm.errors import InputError

TOKEN = "0123456789abcdef" * 4
WITHIN_S = 10


@pytest.fixture
def job_server():
    """Call it with the Ray that it says it is and the token it wants (None for none): its address, what it was sent."""
    servers = []

    def serve(version, token=None):
        sent = []

        class Jobs(BaseHTTPRequestHandler):
            def answer(self):
                allowed = token is None or self.headers.get("Authorization") == f"Bearer {token}"
                body = json.dumps({"ray_version": version} if self.path == "/api/version" else []).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = answer

            def do_PUT(self):
                sent.append(self.path)
                self.answer()

            do_POST = do_PUT

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Jobs))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return SimpleNamespace(url=f"http://127.0.0.1:{servers[-1].server_port}", sent=sent)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(done):
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


def test_another_ray_is_refused_with_both_versions_before_anything_is_sent(sharelm, study_file, job_server):
    server = job_server("2.48.0", TOKEN)
    said = refused(sharelm("submit", study_file(), "--address", server.url, RAY_AUTH_TOKEN=TOKEN))
    assert f"the cluster at {server.url} runs Ray 2.48.0 and this machine Ray {ray.__version__}" in said
    assert server.sent == []


def test_only_the_last_number_of_ray_may_differ():
    major, minor, last = ray.__version__.split(".")[:3]
    assert same_release(f"{major}.{minor}.{int(last[0]) + 1}", ray.__version__)
    assert not same_release(f"{major}.{int(minor) - 1}.{last}", ray.__version__)


def test_a_cluster_that_asks_for_no_token_is_refused_unless_insecure(sharelm, study_file, job_server):
    server, study = job_server("2.48.0"), study_file()
    said = refused(sharelm("submit", study, "--address", server.url))
    assert f"the cluster at {server.url} asks for no token" in said
    assert "RAY_AUTH_MODE=token, or give --insecure" in said
    # a token that the user has does not close the cluster to others
    assert "asks for no token" in refused(sharelm("submit", study, "--address", server.url, RAY_AUTH_TOKEN=TOKEN))
    # the next thing that is wrong with it
    assert "runs Ray 2.48.0" in refused(sharelm("submit", study, "--address", server.url, "--insecure"))
    assert server.sent == []


@pytest.mark.parametrize("address", ["http://head.example:8265", "http://10.0.0.1:8265", "https://[2001:db8::1]:8265"])
def test_insecure_is_for_loopback_only(sharelm, study_file, address):
    with pytest.raises(InputError, match=r"--insecure is for a cluster on this machine's loopback"):
        check_insecure(address, True)
    check_insecure(address, False)
    said = refused(sharelm("submit", study_file(), "--address", address, "--insecure"))
    assert f"--address = {address!r}" in said


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://127.3.2.1", True),
        ("http://localhost:8265", True),
        ("http://[::1]:8265", True),
        ("http://0.0.0.0:8265", False),
        ("http://localhost.example:8265", False),
        ("http://127.0.0.1@head:8265", False),
    ],
)
def test_what_loopback_is(address, ours):
    assert is_loopback(address) == ours


@pytest.fixture
def silent():
    """Addresses of a server that takes connections and never answers, and of one that does not even take them."""
    with socket.socket() as taking, socket.socket() as full:
        taking.bind(("127.0.0.1", 0))
        taking.listen(16)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield {name: f"http://127.0.0.1:{one.getsockname()[1]}" for name, one in (("taking", taking), ("full", full))}
        for one in waiting:
            one.close()


@pytest.mark.parametrize("which", ["taking", "full", "http://127.0.0.1:9", "http://no.such.host.invalid:8265"])
def test_an_address_at_which_nothing_answers_is_named_within_seconds(silent, which):
    address = silent.get(which, which)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray job server answers at {address}"):
        greet(address)
    assert time.monotonic() - started < WITHIN_S


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://127.0.0.1:10001", "auto"])
def test_an_address_that_is_no_url_is_refused(address):
    with pytest.raises(InputError, match=r"is not the job server's URL"):
        greet(address)
