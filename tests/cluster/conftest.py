"""Running the command line as a user does: a process of its own, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.toml"
OF_A_USER = ("SHARELM_", "RAY_", "AWS_")  # settings of whoever runs the tests that a command would read


@pytest.fixture
def sharelm(tmp_path):
    """Call it with arguments (and environment variables): the finished process, output as text."""

    def call(*arguments, timeout=120, **environment):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(OF_A_USER)}
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**clean, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", **environment},
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
