"""`sharelm doctor`: what it finds is what is there."""

import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import deepspeed
import pytest
import torch

from cluster.doctor import check_cluster, check_token


@pytest.fixture
def job_server():
    """Call it with the token it wants (None for none): the address of a server that lists no jobs."""
    servers = []

    def serve(token):
        class Jobs(BaseHTTPRequestHandler):
            def do_GET(self):
                given = self.headers.get("Authorization")
                status = 200 if token is None or given == f"Bearer {token}" else 403 if given else 401
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Jobs))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def found(sharelm, *arguments, **environment):
    done = sharelm("doctor", "--json", *arguments, **environment)
    findings = {one["check"]: one for one in json.loads(done.stdout)}
    assert done.returncode == (1 if any(one["status"] == "fail" for one in findings.values()) else 0)
    return findings


def test_versions_store_and_room(sharelm, tmp_path):
    findings = found(sharelm, "--store", tmp_path / "deep" / "store")
    assert torch.__version__ in findings["torch"]["found"]
    assert deepspeed.__version__ in findings["deepspeed"]["found"]
    for check in ("python", "torch", "deepspeed", "ray", "cluster", "store", "conditional put"):
        assert findings[check]["status"] == "ok", findings[check]
    amount, unit, *_ = findings["disk"]["found"].split()
    free = float(amount) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert free == pytest.approx(shutil.disk_usage("/tmp").free, rel=0.05)


def test_every_problem_says_what_to_do(sharelm):
    findings = found(
        sharelm, "--store", "s3://nobodys-bucket/x", "--address", "http://127.0.0.1:9", HOME="/nonexistent"
    )
    assert [check for check, one in findings.items() if one["status"] == "fail"] == ["cluster", "store"]
    assert all(one["do"] for one in findings.values() if one["status"] != "ok")
    assert "conditional put" not in findings


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_an_open_cluster_fails_and_a_closed_one_needs_the_right_token(clean, job_server):
    opened = check_cluster(job_server(None))
    assert opened["status"] == "fail"
    assert "CVE-2023-48022" in opened["do"]
    closed = job_server("right")
    assert check_cluster(closed)["status"] == "fail"
    clean.setenv("RAY_AUTH_TOKEN", "wrong")
    assert "your token" in check_cluster(closed)["found"]
    clean.setenv("RAY_AUTH_TOKEN", "right")
    assert check_cluster(closed)["status"] == "ok"


def test_a_token_that_others_can_read_is_a_warning(clean, tmp_path):
    path = tmp_path / "token"
    path.write_text("secret-token")
    clean.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    for mode, status in ((0o644, "warn"), (0o600, "ok")):
        path.chmod(mode)
        finding = check_token()
        assert finding["status"] == status
        assert "secret-token" not in str(finding)
