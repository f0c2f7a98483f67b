"""Objects in a local (or network) folder: a whole file appears by rename, a new one by a hard link."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sharelm.errors import StoreError
from sharelm.store.observer import observed

_UNFINISHED = ".unfinished"  # of the same file system as the data, and no reader looks there


class LocalObjects:
    """Objects below one folder, which is made when something is first written."""

    def __init__(self, root: Path):
        self.root = root
        self.uri = str(root)

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Let `FileNotFoundError` of a read through; turn every other failure into a `StoreError`."""
        try:
            yield
        except OSError as error:
            if doing == "read" and isinstance(error, FileNotFoundError):
                raise
            reason = error.strerror or type(error).__name__
            raise StoreError(f"store {self.uri} cannot be {doing}: {reason} ({error.filename or self.uri})") from error

    @contextmanager
    def _written(self, data: bytes | Path) -> Iterator[Path]:
        """A complete temporary file that no reader sees yet; it is removed when the context ends."""
        folder = self.root / _UNFINISHED
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @staticmethod
    def _settle(path: Path) -> None:
        """Sync the folder, so that the file's name survives a power cut."""
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @observed
    def put(self, key: str, data: bytes | Path) -> None:
        """See `Objects`."""
        with self._failures("written"), self._written(data) as finished:
            path = self._place(key)
            finished.replace(path)
            self._settle(path)

    @observed
    def put_new(self, key: str, data: bytes) -> bool:
        """See `Objects`."""
        with self._failures("written"), self._written(data) as finished:
            path = self._place(key)
            try:
                path.hardlink_to(finished)
            except FileExistsError:
                return False
            self._settle(path)
            return True

    @observed
    def get(self, key: str) -> bytes:
        """See `Objects`."""
        with self._failures("read"):
            return (self.root / key).read_bytes()

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Objects`."""
        found: list[bytes | None] = []
        for key in keys:
            try:
                found.append(self.get(key))
            except FileNotFoundError:
                found.append(None)
        return found

    def holding(self, start: str, name: str) -> list[str]:
        """See `Objects`. One look at each folder, since a walk through all files takes six times as long."""
        folder, _, begin = start.rpartition("/")
        with self._failures("read"):
            try:
                with os.scandir(self.root / folder) as entries:
                    found = [entry for entry in entries if entry.name.startswith(begin)]
            except FileNotFoundError:
                return []
            return sorted(entry.name[len(begin) :] for entry in found if _there(f"{entry.path}/{name}"))

    @observed
    def list(self, folder: str) -> list[str]:
        """See `Objects`."""

        def not_absent(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with self._failures("read"):
            return sorted(
                (Path(parent) / name).relative_to(self.root).as_posix()
                for parent, _, names in os.walk(self.root / folder, onerror=not_absent)
                for name in names
            )

    @observed
    def delete(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        with self._failures("written"):
            for key in keys:
                (self.root / key).unlink(missing_ok=True)

    def address(self, key: str) -> str:
        """See `Objects`."""
        return str(self.root / key)

    @observed
    def fetch(self, key: str, sha256: str, check: Callable[[Path], None]) -> Path:
        """See `Objects`. It is the store's own file."""
        path = self.root / key
        with self._failures("read"):
            check(path)
        return path

    def check(self, key: str) -> None:
        """See `Objects`."""
        self.put(key, b"check")
        if self.get(key) != b"check":
            raise StoreError(f"store {self.uri} does not give back what was written")
        self.delete([key])


def _there(path: str) -> bool:
    """Whether this file is there; unlike `Path.exists` it raises where that cannot be known."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
