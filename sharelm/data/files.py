"""Text files on disk or in a bucket: txt, jsonl and parquet, plain or compressed.

Whatever is wrong with a file is reported in one sentence that names the file, and the line if there is one.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sharelm.errors import InputError
from sharelm.study.data import Source

_FORMATS = ("txt", "jsonl", "parquet")
_COMPRESSIONS = ("gz", "xz", "zst", "bz2")
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)
_S3_TIMEOUTS = {"connect_timeout": 3, "read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}}


@dataclass(frozen=True)
class TextFile:
    """One file: its name in messages, its place, and its format and compression by its name."""

    name: str
    path: str
    system: fsspec.AbstractFileSystem
    format: str
    compression: str | None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The uncompressed bytes; raises `InputError` if the file cannot be read or is damaged."""
        try:
            with self.system.open(self.path, "rb") as raw, _uncompressed(raw, self.compression) as stream:
                yield stream
        except _BROKEN as error:
            damaged = self.compression is not None and not getattr(error, "errno", None)
            what = f"is not a whole .{self.compression} file" if damaged else "cannot be read"
            raise InputError(f"{self.name} {what}: {_reason(error)}") from error

    def fingerprint(self) -> list[str]:
        """A value that changes with the content: sha256 of a local file, ETag and size of an object."""
        if self.path.startswith("s3://"):
            info = self.system.info(self.path)
            return [self.format, str(info["ETag"]).strip('"'), str(info["size"])]
        try:
            with Path(self.path).open("rb") as file:
                return [self.format, hashlib.file_digest(file, "sha256").hexdigest()]
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _uncompressed(raw: IO[bytes], compression: str | None) -> Any:
    match compression:
        case None:
            return raw
        case "gz":
            return gzip.open(raw)
        case "xz":
            return lzma.open(raw)
        case "bz2":
            return bz2.open(raw)
    # Arrow's reader says so when a stream ends early, which zstandard's own does not.
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"), 1 << 20)


def _classify(name: str) -> tuple[str, str | None]:
    *rest, last = name.lower().split(".")
    compression = last if last in _COMPRESSIONS else None
    kind = rest[-1] if compression and rest else last
    if kind not in _FORMATS or (kind == "parquet" and compression):
        raise InputError(
            f"{name} ends in none of .txt, .jsonl and .parquet; .gz, .xz, .zst or .bz2 may follow .txt and .jsonl"
        )
    return kind, compression


def _s3_matches(uri: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    import s3fs
    from botocore.exceptions import BotoCoreError

    system = s3fs.S3FileSystem(config_kwargs=_S3_TIMEOUTS, use_listings_cache=False, skip_instance_cache=True)
    system.retries = 1  # botocore retries already
    bucket = uri.removeprefix("s3://").partition("/")[0]
    try:
        paths = [f"s3://{key}" for key in sorted(system.glob(uri)) if not system.isdir(key)]
        if not paths and not system.exists(bucket):
            raise InputError(f"{uri} cannot be read: there is no bucket {bucket!r}")
        return system, paths
    except PermissionError as error:
        raise InputError(
            f"{uri} cannot be read: the server refuses these credentials; look at AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and the bucket's policy"
        ) from error
    except (OSError, BotoCoreError) as error:
        raise InputError(f"{uri} cannot be read: {_reason(error)}") from error


def _globbed(pattern: str, base: Path) -> list[str]:
    return glob.glob(pattern, root_dir=base, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern


def matching(uri: str, base: Path) -> list[TextFile]:
    """The files that a path, glob or `s3://` address names; a relative path starts at `base`."""
    if uri.startswith("s3://"):
        system, paths = _s3_matches(uri)
    else:
        system = fsspec.filesystem("file")
        place = Path(uri).expanduser()
        if (base / place).is_dir():
            raise InputError(f"{uri} is a folder; name its files, for example {uri.rstrip('/')}/*.txt")
        found = [str(place)] if (base / place).exists() else _globbed(str(place), base)
        paths = sorted(str(base / each) for each in found if (base / each).is_file())
    if not paths:
        where = "" if uri.startswith("s3://") or Path(uri).is_absolute() else f" in {base}"
        raise InputError(f"no file matches {uri!r}{where}")
    return [TextFile(path, path, system, *_classify(path)) for path in paths]


def _decoded(data: bytes, where: str) -> str:
    if b"\0" in data:
        raise InputError(f"{where} looks binary: there is a NUL byte at byte {data.index(0)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error


def _txt(file: TextFile, stream: IO[bytes], source: Source) -> Iterator[str]:
    text = _decoded(stream.read(), file.name)
    if source.document_start is None:
        yield text
        return
    begins = re.compile(source.document_start)
    lines: list[str] = []
    matched = False
    for line in io.StringIO(text, newline=""):
        if begins.search(line.rstrip("\r\n")):
            matched = True
            yield "".join(lines)
            lines = []
        lines.append(line)
    if not matched:
        raise InputError(f"{file.name}: no line matches document_start = {source.document_start!r}")
    yield "".join(lines)


def _checked(value: Any, where: str, field: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {field!r} is not text but {json.dumps(value, default=str)[:40]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {field!r} is not UTF-8 text: half a surrogate pair") from error
    return value


def _jsonl(file: TextFile, stream: IO[bytes], source: Source) -> Iterator[str]:
    for number, data in enumerate(stream, 1):
        where = f"{file.name}, line {number}"
        line = _decoded(data, where)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict) or source.text_field not in row:
            there = f"there are {', '.join(row)}" if isinstance(row, dict) else "it is not an object"
            raise InputError(f"{where} has no field {source.text_field!r}; {there}")
        yield _checked(row[source.text_field], where, source.text_field)


def _parquet(file: TextFile, stream: IO[bytes], source: Source) -> Iterator[str]:
    try:
        table = pq.ParquetFile(stream)
        if source.text_field not in table.schema_arrow.names:
            columns = ", ".join(table.schema_arrow.names)
            raise InputError(f"{file.name} has no column {source.text_field!r}; there are {columns}")
        number = 0
        for batch in table.iter_batches(columns=[source.text_field], batch_size=1024):
            for value in batch.column(0):
                number += 1
                yield _checked(value.as_py(), f"{file.name}, row {number}", source.text_field)
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name}, row {number} is not UTF-8: {error.reason}") from error
    except pa.ArrowException as error:
        raise InputError(f"{file.name} is not a Parquet file: {error}") from error


_READERS = {"txt": _txt, "jsonl": _jsonl, "parquet": _parquet}


def texts(source: Source, base: Path) -> Iterator[str]:
    """The text of every document of a source of files, file by file in the order of their names."""
    for file in matching(source.uri, base):
        if source.document_start is not None and file.format != "txt":
            raise InputError(f"{file.name}: document_start is for txt files; here every row is a document")
        with file.open() as stream:
            empty = True
            for text in _READERS[file.format](file, stream, source):
                if text.strip():
                    empty = False
                    yield text
            if empty:
                raise InputError(f"{file.name} is empty: there is no text in it")
