"""The store: files are put whole under an attempt's own keys and become visible when a manifest names them.

`docs/tables.md` says what a writer must never do.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from sharelm.errors import InputError, IntegrityError, StoreError
from sharelm.store import manifest as manifests_format
from sharelm.store.local import LocalObjects
from sharelm.store.manifest import FileRecord, Manifest, folder_of
from sharelm.store.objects import Objects, sha256_of
from sharelm.store.rows import decode_rows, empty_rows, encode_rows
from sharelm.store.s3 import S3Objects
from sharelm.tables import SCHEMA_VERSION, TABLES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_checked: set[tuple[str | int, ...]] = set()  # local files that this process has verified, as they were


def open_store(uri: str) -> Store:
    """The store at a local folder or `s3://bucket/prefix`; nothing is read or written yet.

    Raises `InputError` for anything else.
    """
    if not uri.strip():
        raise InputError("--store is empty; give a folder or s3://bucket/prefix")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Store(LocalObjects(Path(uri).expanduser().absolute()))
    if scheme != "s3":
        raise InputError(f"--store = {uri!r}: {scheme}:// is not known; give a folder or s3://bucket/prefix")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InputError(f"--store = {uri!r} names no bucket; give s3://bucket/prefix")
    return Store(S3Objects(bucket, prefix.strip("/")))


def _name(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(f"{kind} {name!r} cannot be part of a key; use letters, digits, '.', '_' and '-'")
    return name


class Attempt:
    """One try at one step. Several processes may put files of one attempt (same id); one of them commits.

    An id is never used for two tries. The key of a file holds part of its sha256, so that no put can alter a
    file that was committed.
    """

    def __init__(self, objects: Objects, table: str, study: str, step: str, attempt: str | None):
        self.table, self.study, self.step = _name("table", table), _name("study", study), _name("step", step)
        self.id = _name("attempt", attempt or uuid.uuid4().hex[:12])
        self.folder = folder_of(table, study, step)
        self._objects = objects

    def put(self, name: str, data: bytes | Path) -> FileRecord:
        """Put one whole file (given as bytes, or as the path of a finished local file); not yet visible."""
        sha256 = sha256_of(data)
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        record = FileRecord(name, f"{self.folder}/{self.id}-{sha256[:8]}-{_name('file', name)}", size, sha256)
        self._objects.put(record.key, data)
        return record

    def commit(
        self, records: Iterable[FileRecord], rows: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Commit these files as the step's result. If another attempt committed first, return its manifest.

        The files of an attempt that came second are removed.
        """
        manifest = Manifest(
            table=self.table,
            study=self.study,
            step=self.step,
            attempt=self.id,
            schema_version=SCHEMA_VERSION if self.table in TABLES else None,
            rows=rows,
            files=tuple(sorted(records, key=lambda record: record.name)),
            facts=dict(facts or {}),
            committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        key = f"{self.folder}/{manifests_format.NAME}"
        data = manifest.to_json()
        for wait in (0.1, 0.5, 2.0, 0.0):  # a 409 says that another put was under way, not that it succeeded
            if self._objects.put_new(key, data):
                return manifest
            try:
                first = Manifest.from_json(self._objects.get(key), f"{self._objects.uri}/{key}")
            except FileNotFoundError:
                time.sleep(wait)
                continue
            kept = {record.key for record in first.files}
            self._objects.delete([record.key for record in manifest.files if record.key not in kept])
            return first
        raise StoreError(f"store {self._objects.uri} neither takes nor has {key}")


class Store:
    """Committed steps of studies, in a folder or a bucket. Can be sent to other processes."""

    def __init__(self, objects: Objects):
        self.objects = objects
        self.uri = objects.uri

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.uri,)

    def check_writable(self) -> None:
        """Write, read and remove a small object; within about 10 s a `StoreError` says in one sentence why not."""
        self.objects.check(f".check/{uuid.uuid4().hex}")

    def probe_conditional_put(self) -> bool:
        """Whether the second of two conditional puts of one key is refused; concurrent attempts rely on it."""
        key = f".check/{uuid.uuid4().hex}"
        try:
            return self.objects.put_new(key, b"first") and not self.objects.put_new(key, b"second")
        finally:
            self.objects.delete([key])

    def find(self, table: str, study: str, step: str) -> Manifest | None:
        """The step's manifest, or None while nobody has committed it."""
        key = self._manifest_key(table, study, step)
        try:
            return Manifest.from_json(self.objects.get(key), f"{self.uri}/{key}")
        except FileNotFoundError:
            return None

    def steps(self, table: str, study: str) -> set[str]:
        """The names of a study's committed steps in a table, from keys alone: no manifest is read or checked."""
        start = folder_of(_name("table", table), _name("study", study), "")
        return set(self.objects.holding(start, manifests_format.NAME))

    def manifests(self, table: str, study: str | None = None, steps: Collection[str] | None = None) -> list[Manifest]:
        """Every committed step of a table, of one study or of all, sorted by study and step; or those named.

        Where the study and steps are named, nothing is listed.
        """
        folder = _name("table", table)
        if study is None:
            listed = self.objects.list(folder)
            keys = [key for key in listed if key.endswith(f"/{manifests_format.NAME}")]
        else:
            names = self.steps(table, study) if steps is None else set(steps)
            keys = [self._manifest_key(table, study, name) for name in names]
        found = zip(keys, self.objects.get_many(keys), strict=True)
        those = [Manifest.from_json(data, f"{self.uri}/{key}") for key, data in found if data is not None]
        return sorted(
            (each for each in those if steps is None or each.step in steps), key=lambda each: (each.study, each.step)
        )

    def attempt(self, table: str, study: str, step: str, attempt: str | None = None) -> Attempt:
        """A new attempt at a step, by one process or by several (which pass the same new id)."""
        return Attempt(self.objects, table, study, step, attempt)

    def commit(
        self,
        table: str,
        study: str,
        step: str,
        files: Mapping[str, bytes | Path],
        *,
        rows: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Put these whole files and commit them. If another attempt committed first, return its manifest."""
        done = self.find(table, study, step)
        if done is not None:
            return done
        attempt = self.attempt(table, study, step)
        return attempt.commit([attempt.put(name, data) for name, data in files.items()], rows, facts)

    def commit_rows(
        self, table: str, study: str, step: str, rows: pa.Table, facts: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Commit rows of one of the tables, as zstd Parquet in the table's schema.

        Raises `StoreError` for a missing, unknown or unfitting column.
        """
        files = {"rows.parquet": encode_rows(table, rows)}
        return self.commit(table, study, step, files, rows=rows.num_rows, facts=facts)

    def read(self, table: str, study: str | None = None, steps: Collection[str] | None = None) -> pa.Table:
        """Committed rows of a table with the columns `study` and `step`, sorted by those and then as written.

        All of them, or those of the named steps: rows of other settings or of older code lie in the same table.

        Raises `IntegrityError` if any file is not what its manifest says, `StoreError` for a newer schema.
        """
        found = self._steps(table, study, steps)
        records = [record for step in found for record in step.files]
        contents = iter(self._contents(records))
        parts = [decode_rows(step, record, next(contents)) for step in found for record in step.files]
        return pa.concat_tables([empty_rows(table), *parts])

    def files(self, table: str, study: str | None = None, steps: Collection[str] | None = None) -> list[str]:
        """The addresses of a table's committed Parquet files, as DuckDB's `read_parquet` takes them."""
        found = self._steps(table, study, steps)
        return [self.objects.address(record.key) for step in found for record in step.files]

    def address(self, manifest: Manifest, name: str) -> str:
        """Where a committed file lies: a path, or an s3:// address."""
        return self.objects.address(manifest.file(name).key)

    @staticmethod
    def _manifest_key(table: str, study: str, step: str) -> str:
        folder = folder_of(_name("table", table), _name("study", study), _name("step", step))
        return f"{folder}/{manifests_format.NAME}"

    def _steps(self, table: str, study: str | None, steps: Collection[str] | None = None) -> list[Manifest]:
        """The committed steps of one of the tables, all of a schema that this version reads."""
        if table not in TABLES:
            raise StoreError(f"{table!r} is not a table; there are {', '.join(TABLES)}")
        found = self.manifests(table, study, steps)
        for step in found:
            if (step.schema_version or 0) > SCHEMA_VERSION:
                raise StoreError(
                    f"table {table} of study {step.study!r} in {self.uri} has schema version {step.schema_version}, "
                    f"this ShareLM reads up to {SCHEMA_VERSION}; upgrade ShareLM"
                )
        return found

    def _contents(self, records: list[FileRecord]) -> list[bytes]:
        contents = self.objects.get_many([record.key for record in records])
        for record, data in zip(records, contents, strict=True):
            if data is None:
                raise self._missing(record)
            self._check(record, data)
        return cast(list[bytes], contents)

    def _missing(self, record: FileRecord) -> IntegrityError:
        return IntegrityError(
            f"{self.objects.address(record.key)} is missing although its manifest names it; nothing was read"
        )

    def _check(self, record: FileRecord, data: bytes | Path) -> None:
        where = self.objects.address(record.key)
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size != record.bytes:
            raise IntegrityError(f"{where} has {size} bytes but {record.bytes} were committed; nothing was read")
        if sha256_of(data) != record.sha256:
            raise IntegrityError(f"{where} was altered: its sha256 is not that of what was committed; nothing was read")

    def _check_once(self, record: FileRecord, path: Path) -> None:
        """Check a local file, unless this process has checked it since it last changed."""
        stat = path.stat()
        seen = (record.sha256, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen not in _checked:
            self._check(record, path)
            _checked.add(seen)

    def read_bytes(self, manifest: Manifest, name: str) -> bytes:
        """The content of one file of a step, verified; `IntegrityError` if it is not what was committed."""
        (data,) = self._contents([manifest.file(name)])
        return data

    def fetch(self, manifest: Manifest, name: str) -> Path:
        """A local path with one file of a step, to be memory-mapped and never written.

        In a local store it is the store's own file; from S3 it is kept in this node's cache (`SHARELM_CACHE`, or
        a folder of the user's under the temporary one). It is verified once a process, and again when it changes.
        """
        record = manifest.file(name)
        try:
            return self.objects.fetch(record.key, record.sha256, partial(self._check_once, record))
        except FileNotFoundError:
            raise self._missing(record) from None

    def remove(self, manifest: Manifest) -> None:
        """Remove a step, its manifest first, so that no reader sees a part of it."""
        folder = folder_of(manifest.table, manifest.study, manifest.step)
        self.objects.delete([f"{folder}/{manifests_format.NAME}", *(record.key for record in manifest.files)])

    def studies(self) -> list[str]:
        """The names of the studies that are recorded here."""
        return sorted({key.split("/")[1].removeprefix("study=") for key in self.objects.list("studies")})
