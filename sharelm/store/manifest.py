"""The manifest: a small object that commits a step's files, with the size and digest of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sharelm.errors import IntegrityError, StoreError

VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """One file of a step: its name, its key, its size and its digest."""

    name: str
    key: str
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a message between processes; `FileRecord(**values)` restores the record."""
        return asdict(self)


@dataclass(frozen=True)
class Manifest:
    """A committed step of a study: `table/study=.../step=.../`."""

    table: str
    study: str
    step: str
    attempt: str
    schema_version: int | None  # None for what is not one of the tables
    rows: int | None
    files: tuple[FileRecord, ...]
    facts: Mapping[str, Any]  # small values a reader wants without opening a file
    committed_at: str  # UTC, ISO 8601

    def file(self, name: str) -> FileRecord:
        """The record of the file of this name; `IntegrityError` if the step has none."""
        for record in self.files:
            if record.name == name:
                return record
        raise IntegrityError(f"step {self.step} of {self.table} has no file {name!r}")

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        values = {**vars(self), "version": VERSION, "files": [record.as_json() for record in self.files]}
        return json.dumps(values, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """The manifest in these bytes.

        Raises `IntegrityError` if they are not one, `StoreError` if a newer ShareLM wrote them.
        """
        try:
            values = json.loads(data)
            version = values.pop("version")
            if version > VERSION:
                raise StoreError(
                    f"{where} is a manifest of version {version}, this ShareLM reads up to {VERSION}; upgrade ShareLM"
                )
            files = tuple(FileRecord(**record) for record in values.pop("files"))
            return cls(files=files, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{where} is not a manifest ({type(error).__name__}); nothing was read") from error


def folder_of(table: str, study: str, step: str) -> str:
    """The folder of a step, hive-partitioned so that DuckDB and Arrow find `study` and `step` in the path."""
    return f"{table}/study={study}/step={step}"
