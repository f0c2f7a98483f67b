"""What is sent to a cluster with a job: the study file, the local files that it names, and the code that runs it."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from sharelm.errors import InputError
from sharelm.study import Study
from sharelm.study.task_files import named_files

PACKAGES = ("jobs", "sharelm")
FOLDER = "study"  # of the study file and its data, inside the bundle
LARGEST_DATA_BYTES = 64 * 2**20


def _local(study: Study, base: Path) -> Iterator[tuple[str, str]]:
    """Field and value of every file that the study names by a relative path."""
    named: list[tuple[str, str | None]] = [
        *((f"data.source[{i}].uri", source.uri) for i, source in enumerate(study.data.source)),
        ("data.tokenizer", study.data.tokenizer),
        *(
            (f"evaluation.task[{i}].{setting}", name)
            for i, task in enumerate(study.evaluation.task)
            for setting, name in named_files(task, base)
        ),
    ]
    for field, value in named:
        remote = value is None or "://" in value or value.startswith(("builtin:", "hf:")) or Path(value).is_absolute()
        if not remote:
            assert value is not None
            yield field, value


def data_files(path: Path, study: Study) -> list[Path]:
    """The files to send, relative to the study file's folder.

    Raises `InputError` for a file that is not there, lies outside that folder, or makes the bundle too large.
    """
    base = path.resolve().parent
    elsewhere = "use s3:// or an absolute path that is present on every node"
    found: dict[Path, int] = {}
    for field, value in _local(study, base):
        matches = [match for match in sorted(base.glob(value)) if match.is_file()] if ".." not in value else []
        if not matches:
            raise InputError(f"{path}: {field} = {value!r} names no file below {base} that can travel; {elsewhere}")
        found |= {match.relative_to(base): match.stat().st_size for match in matches}
        if sum(found.values()) >= LARGEST_DATA_BYTES:
            raise InputError(
                f"{path}: {field} = {value!r} makes {sum(found.values()):,} bytes of local files, "
                f"{LARGEST_DATA_BYTES:,} can travel with a job; {elsewhere}"
            )
    return sorted(found)


def copy_packages(folder: Path) -> None:
    """Copy the code that runs on a cluster into this folder."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"the package {package} is not installed, so it cannot travel")
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def make_bundle(folder: Path, path: Path, study: Study) -> tuple[str, str]:
    """Fill this empty folder with what a job needs.

    Returns the study file's path inside the bundle and a digest of everything else, code and data. Credentials,
    results and virtual environments do not travel: nothing is copied that is not named here.
    """
    place = folder / FOLDER
    place.mkdir()
    for name in data_files(path, study):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.resolve().parent / name, place / name)
    copy_packages(folder)
    shipped = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        shipped.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        shipped.update(file.read_bytes())
    shutil.copyfile(path, place / path.name)
    return f"{FOLDER}/{path.name}", shipped.hexdigest()[:20]
