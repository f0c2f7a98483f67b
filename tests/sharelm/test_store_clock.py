"""Machines whose clocks are an hour off: what they commit, fetch and list, and what S3 lets them."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.evidence import newest_report
from sharelm.store import open_store
from tests.conftest import ROOT, user_environment
from tests.sharelm.store_helpers import rows_of

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOURS = {"ahead of": "+1h", "behind": "-1h"}

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="no libfaketime: on Debian, apt-get install libfaketime")


@pytest.fixture(params=HOURS)
def side(request):
    return request.param


def elsewhere(action, uri, side, **environment):
    """What `store_writer` does on a machine whose clock is an hour off."""
    clock = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": HOURS[side], "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tests.sharelm.store_writer", action, uri, "s"],
        env=user_environment(**clock, **environment),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def test_a_folder_is_committed_fetched_and_listed_alike(tmp_path, side):
    uri = str(tmp_path / "store")
    here = open_store(uri)
    first = here.commit("tokens", "s", "1", {"x": b"here"})
    done = elsewhere("few", uri, side)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "2", "3"]  # the steps that it lists, one of them from here
    assert here.find("tokens", "s", "1") == first  # nobody's clock makes a commit the first
    assert here.read_bytes(here.find("tokens", "s", "2"), "x") == b"elsewhere"
    off = datetime.fromisoformat(here.find("tokens", "s", "2").committed_at) - datetime.now(UTC)
    assert abs(off - timedelta(hours=1 if side == "ahead of" else -1)) < timedelta(minutes=5)  # it was off
    open_store(str(tmp_path / "other")).commit_rows("scores", "s", "2", rows_of("scores", 5))
    assert here.read("scores") == open_store(str(tmp_path / "other")).read("scores")


def test_the_newest_report_is_the_newest_by_its_writers_clock(tmp_path, side):
    uri = str(tmp_path / "store")
    here = open_store(uri)
    here.objects.put("studies/study=s/revision-0001.json", b"{}")
    here.commit("reports", "s", "before", {"x": b"here"})
    assert elsewhere("report", uri, side).returncode == 0
    here.commit("reports", "s", "then", {"x": b"here"})
    assert newest_report(here, "s").step == ("elsewhere" if side == "ahead of" else "then")


@pytest.mark.s3
def test_s3_refuses_and_the_sentence_says_by_how_much(s3_uri, side):
    server = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SHARELM_CACHE"))}
    here = open_store(s3_uri)
    first = here.commit("tokens", "s", "1", {"x": b"here"})
    done = elsewhere("refused", s3_uri, side, **server)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert len(sentences) == 4
    for sentence in sentences:
        assert f"store {s3_uri} cannot be " in sentence
        assert "this machine's clock is 1 h 00 min " in sentence or "this machine's clock is 59 min 5" in sentence
        assert sentence.endswith(f" {side} the server's; set it, then run again")
    assert here.manifests("tokens") == [first]
