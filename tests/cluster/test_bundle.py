"""What travels with a job: the study, its local data and the code, and nothing else."""

import subprocess
import sys

import pytest

from cluster.bundle import LARGEST_DATA_BYTES, data_files, make_bundle
from cluster.submission import store_for_cluster
from sharelm.errors import InputError
from sharelm.study import load_study

BUILTIN = 'uri = "builtin:python"'


def with_corpus(study_file, uri):
    return study_file((BUILTIN, f'uri = "{uri}"\ndomain = "books"'))


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_study_its_files_and_the_packages_travel(study_file, tmp_path):
    for name in ("books/a.txt", "books/b.txt", "books/c.md", "secrets.env", ".git/config", "results/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    path = with_corpus(study_file, "books/*.txt")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    file, _ = make_bundle(bundle, path, load_study(path))
    found = files_below(bundle)
    assert {name for name in found if name.startswith("study/")} == {
        "study/study.toml",
        "study/books/a.txt",
        "study/books/b.txt",
    }
    assert {name.partition("/")[0] for name in found} == {"study", "jobs", "sharelm"}
    assert not [name for name in found if "__pycache__" in name]
    assert load_study(bundle / file) == load_study(path)
    # The driver starts from the bundle alone: -S and -E leave out this environment's own copy of the packages.
    code = "import jobs, sharelm.study.plan; print(jobs.__file__, sharelm.__file__)"
    sources = [found for found in sys.path if found.endswith("site-packages")]
    started = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path += {sources!r}; {code}"],
        cwd=bundle,
        capture_output=True,
        text=True,
    )
    assert started.stdout.split() == [str(bundle / "jobs/__init__.py"), str(bundle / "sharelm/__init__.py")]


def test_the_digest_of_what_travels_follows_data_and_not_the_study(study_file, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    digests = []
    for number, (text, extra) in enumerate([("one", ""), ("one", "# a comment\n"), ("two", "")]):
        (tmp_path / "a.txt").write_text(text)
        path = with_corpus(study_file, "a.txt")
        path.write_text(extra + path.read_text(encoding="utf-8"), encoding="utf-8")
        folder = tmp_path / str(number)
        folder.mkdir()
        digests.append(make_bundle(folder, path, load_study(path))[1])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("uri", ["s3://bucket/*.txt", "hf:wikitext", "/data/books.txt", "builtin:python"])
def test_what_the_nodes_reach_by_themselves_stays(study_file, uri):
    path = with_corpus(study_file, uri)
    assert data_files(path, load_study(path)) == []


def test_files_that_cannot_travel_are_refused(study_file, tmp_path):
    (tmp_path.parent / "outside.txt").write_text("x")
    for uri in ("../outside.txt", "nothing/*.txt"):
        path = with_corpus(study_file, uri)
        with pytest.raises(InputError, match=r"study\.toml: data\.source\[0\]\.uri = .*use s3:// or an absolute path"):
            data_files(path, load_study(path))
    with (tmp_path / "large.txt").open("wb") as large:
        large.truncate(LARGEST_DATA_BYTES)
    path = with_corpus(study_file, "large.txt")
    with pytest.raises(InputError, match="67,108,864 bytes"):
        data_files(path, load_study(path))


def test_a_folder_must_mean_the_same_on_the_cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, away = "http://127.0.0.1:8265", "http://head.example:8265"
    assert store_for_cluster("s3://bucket/x", away) == "s3://bucket/x"
    assert store_for_cluster("/mnt/shared", away) == "/mnt/shared"
    assert store_for_cluster("results", here) == str(tmp_path / "results")
    with pytest.raises(InputError, match="--store = 'results' is a folder of this machine"):
        store_for_cluster("results", away)
