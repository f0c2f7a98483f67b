"""What a run wrote, kept in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.evidence import stored_log
from sharelm.errors import InputError
from sharelm.store import open_store
from sharelm.store.logs import MOST_CHARACTERS, MOST_LINES, commit_log, newest_log
from sharelm.store.studies import record_study
from tests.sharelm.small import small_study


def test_the_newest_run_is_told_with_the_last_words_of_what_failed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert newest_log(store, "s") is None
    commit_log(store, "s", ["first"], {}, {"outcome": "done"})
    commit_log(store, "s", ["second", "line"], {"trial a": "Traceback\nit broke"}, {"outcome": "it broke"})
    assert newest_log(store, "s") == "second\nline\n== trial a\nTraceback\nit broke\n"
    assert len(store.manifests("logs", "s")) == 2


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    words = "x" * (2 * MOST_CHARACTERS) + "the end"
    commit_log(store, "s", [str(number) for number in range(2 * MOST_LINES)], {"a": words}, {})
    found = newest_log(store, "s")
    assert found is not None
    assert len(found) < 10 * MOST_LINES + 2 * MOST_CHARACTERS
    assert f"\n{2 * MOST_LINES - 1}\n" in found
    assert found.endswith("the end\n")


def test_a_study_without_a_log_is_said(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(InputError, match="study 'small' is not in"):
        stored_log(str(tmp_path), "small")
    record_study(store, small_study(), "small.toml")
    with pytest.raises(InputError, match="no log of study 'small' is kept in"):
        stored_log(str(tmp_path), "small")
