"""Objects in an S3 bucket, through s3fs; endpoint and credentials come from the usual AWS environment.

Only whole objects are put: leaving an open S3 handle by an exception publishes what was written so far.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus
from xml.sax.saxutils import unescape

from sharelm.errors import IntegrityError, StoreError
from sharelm.formats import duration
from sharelm.store.observer import observed, retried

_CHECK_SECONDS = 10
_CONNECTIONS = 32
_BUSY_ATTEMPTS = 5  # at a server that answers 503: up to 8 s, less than `check` waits
_READS = 3  # of an object whose content is cut
_CONFIG = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "max_pool_connections": _CONNECTIONS,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
_ENTRY = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)  # of a page of a listing
_ENCODED = b"<EncodingType>url</EncodingType>"
_DIGITS = "0123456789abcdef"  # a step's name is a digest: listings of many begin at each of these
_REFUSED = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "ExpiredToken", "InvalidToken", "403"}


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, if it did; s3fs keeps botocore's error as the cause of its own."""
    found: dict[str, Any] = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return found


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _file_system(anonymous: bool) -> Any:
    import s3fs
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register("before-parse.s3.ListObjectsV2", _keys_alone)
    session.register("request-created.s3", _note_retry)
    session.register("needs-retry.s3", _wait_while_busy)
    options: dict[str, Any] = {"config_kwargs": _CONFIG, "use_listings_cache": False, "session": session}
    fs = s3fs.S3FileSystem(anon=anonymous, skip_instance_cache=True, **options)
    fs.retries = 1  # botocore retries already; both together hide a dead server for most of a minute
    return fs


class S3Objects:
    """Objects below `s3://bucket/prefix`; anonymous requests carry no credentials."""

    def __init__(self, bucket: str, prefix: str, anonymous: bool = False):
        self.bucket = bucket
        self.prefix = prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._anonymous = anonymous
        self._opened: dict[int, Any] = {}

    @property
    def _fs(self) -> Any:
        """This process's own s3fs; one from before a fork would hang."""
        if os.getpid() not in self._opened:
            self._opened = {os.getpid(): _file_system(self._anonymous)}
        return self._opened[os.getpid()]

    def _run(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any, timeout: float | None = None) -> Any:
        from fsspec.asyn import sync

        return sync(self._fs.loop, work, *args, timeout=timeout)

    @property
    def _endpoint(self) -> str:
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"

    def _cause(self, error: BaseException) -> str:
        from botocore import exceptions as boto

        code = _code(error)
        if code == "NoSuchBucket":
            return f"there is no bucket {self.bucket!r} at {self._endpoint}"
        if code == "RequestTimeTooSkewed":
            return f"this machine's clock is {_clock_off(error)}; set it, then run again"
        if code in _REFUSED or isinstance(error, PermissionError):
            return (
                f"{self._endpoint} refuses these credentials ({code or 'access denied'}); look at AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and the bucket's policy"
            )
        if code:
            return f"{self._endpoint} answers {code}"
        if isinstance(error, boto.NoCredentialsError):
            return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if _cut(error):
            return f"{self._endpoint} ends its answers before they are whole"
        if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, TimeoutError, ConnectionError)):
            return f"{self._endpoint} does not answer"
        return f"{type(error).__name__}: {error}"

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Let `FileNotFoundError` through if the server says that the key is absent; else raise a `StoreError`."""
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError

        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            if _absent(error):
                raise
            raise StoreError(f"store {self.uri} cannot be {doing}: {self._cause(error)}") from error

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".lstrip("/")

    def _path(self, key: str) -> str:
        return f"{self.bucket}/{self._key(key)}"

    @observed
    def put(self, key: str, data: bytes | Path) -> None:
        """See `Objects`. A large object is sent in parts and appears after the last one."""
        with self._failures("written"):
            if isinstance(data, bytes):
                self._fs.pipe_file(self._path(key), data)
            else:
                self._fs.put_file(str(data), self._path(key))

    @observed
    def put_new(self, key: str, data: bytes) -> bool:
        """See `Objects`. It is one put: Ceph ignores the condition of a put in parts."""
        with self._failures("written"):
            try:
                self._fs.call_s3("put_object", Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
            except OSError as error:  # FileExistsError from AWS, a plain OSError from Ceph
                if _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                    return False
                raise
            return True

    async def _read(self, key: str) -> bytes:
        """One request an object; s3fs's own `cat` asks for the size first."""

        async def read() -> bytes:
            answer = await self._fs._call_s3("get_object", Bucket=self.bucket, Key=self._key(key))
            async with answer["Body"] as body:
                content: bytes = await body.read()
            return content

        found: bytes = await _whole(read)
        return found

    @observed
    def get(self, key: str) -> bytes:
        """See `Objects`."""
        with self._failures("read"):
            content: bytes = self._run(self._read, key)
            return content

    @observed
    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Objects`."""

        async def read_all() -> list[bytes | None]:
            await self._fs.set_session()
            several = asyncio.Semaphore(_CONNECTIONS)

            async def read_one(key: str) -> bytes | None:
                async with several:
                    try:
                        return await self._read(key)
                    except FileNotFoundError as error:
                        if _absent(error):
                            return None
                        raise

            return await asyncio.gather(*[read_one(key) for key in keys])

        with self._failures("read"):
            contents: list[bytes | None] = self._run(read_all)
            return contents

    async def _page(self, start: str, **where: str) -> tuple[list[str], dict[str, str]]:
        """Some of the keys that begin so, and where the next page begins; nothing where this is the last."""
        page = await self._fs._call_s3("list_objects_v2", Bucket=self.bucket, Prefix=start, **where)
        more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else {}
        return page["Keys"], more

    async def _between(self, start: str, after: str, until: str | None) -> list[str]:
        """The keys that begin so, come after that one and before this one; a server lists them in their order."""
        keys: list[str] = []
        where = {"StartAfter": after} if after else {}
        while True:
            page, where = await self._page(start, **where)
            keys += page
            if not where or (until is not None and page and page[-1] >= until):
                return [key for key in keys if until is None or key < until]

    def holding(self, start: str, name: str) -> list[str]:
        """See `Objects`. What is more than a page is listed in parallel, from each hexadecimal digit to the next."""
        start = self._key(start)

        async def list_all() -> list[str]:
            await self._fs.set_session()
            keys, more = await self._page(start)
            if more:
                last = keys[-1]
                begins = [last, *(start + digit for digit in _DIGITS if start + digit > last)]
                ends = [*begins[1:], None]
                parts = [self._between(start, begin, end) for begin, end in zip(begins, ends, strict=True)]
                keys += [key for part in await asyncio.gather(*parts) for key in part]
            return keys

        with self._failures("read"):
            found = [key[len(start) :].split("/") for key in self._run(list_all)]
        return sorted(parts[0] for parts in found if parts[1:] == [name])

    @observed
    def list(self, folder: str) -> list[str]:
        """See `Objects`."""
        with self._failures("read"):
            keys = self._run(self._between, self._key(folder.rstrip("/") + "/"), "", None)
        skip = len(self._key(""))
        return sorted(key[skip:] for key in keys)

    @observed
    def delete(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        with self._failures("written"):
            for key in keys:
                self._fs.call_s3("delete_object", Bucket=self.bucket, Key=self._key(key))

    def address(self, key: str) -> str:
        """See `Objects`."""
        return f"s3://{self._path(key)}"

    @observed
    def fetch(self, key: str, sha256: str, check: Callable[[Path], None]) -> Path:
        """See `Objects`. One process of a node downloads it; the others wait for that."""
        folder = _cache()
        path = folder / sha256
        if not _good(path, check):
            with (folder / f"{sha256}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _good(path, check):
                    self._download(key, path, check)
        return path

    def _download(self, key: str, path: Path, check: Callable[[Path], None]) -> None:
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            with self._failures("read"):
                self._run(_whole, partial(self._fs._get_file, self._path(key), str(unfinished)))
            check(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def check(self, key: str) -> None:
        """See `Objects`."""

        async def round_trip() -> bytes:
            place = {"Bucket": self.bucket, "Key": self._key(key)}
            await self._fs._call_s3("put_object", **place, Body=b"check")
            content = await self._read(key)
            await self._fs._call_s3("delete_object", **place)
            return content

        with self._failures("written"):
            if self._run(round_trip, timeout=_CHECK_SECONDS) != b"check":
                raise StoreError(f"store {self.uri} does not give back what was written")


def _keys_alone(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the keys of a page of a listing, and leave botocore the rest: it would take 20 times as long for them."""
    page = response_dict["body"]
    keys = unescape(b"\0".join(_ENTRY.findall(page)).decode())
    if _ENCODED in page:
        keys = unquote_plus(keys)
    customized_response_dict["Keys"] = keys.split("\0") if keys else []
    response_dict["body"] = _ENTRY.sub(b"", page)


def _note_retry(request: Any, **_: Any) -> None:
    """Called by botocore before it sends a request; from the second time on it is a retry."""
    if request.context.get("retries", {}).get("attempt", 1) > 1:
        retried()


def _pause(attempts: int) -> float:
    """Seconds to wait after so many attempts: twice as long each time, and not the same for all who wait."""
    return random.uniform(0.25, 0.5) * float(2 ** (attempts - 1))


def _wait_while_busy(response: Any, attempts: int, **_: Any) -> float | None:
    """Called by botocore after every answer: the seconds after which a busy server is asked again.

    botocore's own three attempts may be over within a moment.
    """
    busy = response is not None and response[0].status_code == 503
    return _pause(attempts) if busy and attempts < _BUSY_ATTEMPTS else None


def _cut(error: BaseException) -> bool:
    """Whether an answer began and ended too early."""
    from aiohttp import ClientPayloadError
    from botocore.exceptions import ResponseStreamingError

    return isinstance(error, (ClientPayloadError, ResponseStreamingError))


async def _whole(read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What this reads. It is read again where it is cut: botocore asks again only until an answer begins."""
    for attempt in range(1, _READS):
        try:
            return await read()
        except Exception as error:
            if not _cut(error):
                raise
        retried()
        await asyncio.sleep(_pause(attempt))
    return await read()


def _clock_off(error: BaseException) -> str:
    """How far this machine's clock is from the server's, in words."""
    said = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not said:
        return f"off ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    seconds = (datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds()
    return f"{duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'} the server's"


def _absent(error: BaseException) -> bool:
    """Whether an S3 server says that there is no such object; a 404 from another kind of server does not count."""
    return isinstance(error, FileNotFoundError) and _code(error) == "NoSuchKey"


def _good(path: Path, check: Callable[[Path], None]) -> bool:
    """Whether a cached copy is there and whole; a damaged one is fetched again."""
    try:
        check(path)
    except (FileNotFoundError, IntegrityError):
        return False
    return True


def _cache() -> Path:
    """This user's folder for downloaded objects on this node."""
    named = os.environ.get("SHARELM_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"sharelm-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the cache folder {folder} cannot be made: {error.strerror}; set SHARELM_CACHE") from error
    if folder.stat().st_uid != os.getuid():
        raise StoreError(f"the cache folder {folder} belongs to somebody else; set SHARELM_CACHE")
    return folder
