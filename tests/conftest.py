import os
import uuid

import pytest


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
