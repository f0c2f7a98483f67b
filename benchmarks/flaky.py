"""A proxy before a store's S3 server that misbehaves on request: it answers 503, waits, or cuts connections.

It forwards requests as they are, signature included. Tests and `benchmarks.chaos` put it between a study and its store.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from types import TracebackType
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

Mode = Literal["well", "refuse", "slow", "cut"]

_LARGEST = 1 << 30  # bytes of one request
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}
_SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Flaky:
    """A context manager: `url` is the endpoint to use, `mode` what happens to requests from now on.

    `refuse` answers 503 SlowDown. `slow` waits `seconds` before each request. `cut` sends half of what is read; what
    is written is written, and the connection ends without an answer. `met` counts requests by the mode they met.
    """

    def __init__(self, server: str, seconds: float = 2.0) -> None:
        self.mode: Mode = "well"
        self.seconds = seconds
        self.met: Counter[Mode] = Counter()
        self._server = server.rstrip("/")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Flaky:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> str:
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(60))
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_route("*", "/{path:.*}", self._answer)
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a cut connection is no error here
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        mode = self.mode
        self.met[mode] += 1
        if mode == "refuse":
            return web.Response(status=503, text=_SLOW_DOWN, content_type="application/xml")
        if mode == "slow":
            await asyncio.sleep(self.seconds)
        url = URL(self._server + request.raw_path, encoded=True)
        sent = {name: value for name, value in request.headers.items() if name.lower() not in _OF_A_CONNECTION}
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=sent, data=body or None, allow_redirects=False
        ) as got:
            content = await got.read()
            kept = {name: value for name, value in got.headers.items() if name.lower() not in _OF_A_CONNECTION}
        if mode != "cut":
            return web.Response(status=got.status, headers=kept, body=content)
        if request.method == "GET" and request.transport is not None:
            cut = web.StreamResponse(status=got.status, headers=kept)
            await cut.prepare(request)
            await cut.write(content[: len(content) // 2])
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError
