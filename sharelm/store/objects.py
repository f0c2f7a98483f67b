"""Where objects live: the few operations that a folder and a bucket both offer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol


class Objects(Protocol):
    """Whole objects under keys. Keys have '/' between their parts; a failure other than absence is a `StoreError`."""

    uri: str

    def put(self, key: str, data: bytes | Path) -> None:
        """Make the object appear whole."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Make the object appear whole unless the key is taken. Returns whether this call made it."""

    def get(self, key: str) -> bytes:
        """The object; `FileNotFoundError` if there is none."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several objects at once, None for one that is not there."""

    def holding(self, start: str, name: str) -> list[str]:
        """The folders whose keys begin so and that hold an object of this name, sorted and without `start`.

        `start` ends in the middle of a folder's name, as `scores/study=s/step=` does; nothing is read but keys.
        """

    def list(self, folder: str) -> list[str]:
        """The sorted keys below this folder, however deep."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove the objects that are there."""

    def address(self, key: str) -> str:
        """The object's URI, as DuckDB and Arrow read it."""

    def fetch(self, key: str, sha256: str, check: Callable[[Path], None]) -> Path:
        """A local file with the object's content, which passed `check`; `FileNotFoundError` if there is none."""

    def check(self, key: str) -> None:
        """Write, read and remove a small object within about ten seconds, or raise `StoreError`."""


def sha256_of(data: bytes | Path) -> str:
    """The hexadecimal sha256 of these bytes or of this file's."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
