"""A Ray cluster of several nodes on this machine, each part of which can be killed and started again."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

NODES = 2
START_S = 90


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """A head without CPUs and nodes of one CPU each, which want a token.

    `settings` are environment variables of every process. `small` is a disk on which the last node keeps its temporary
    files and downloads.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], small: Path | None = None) -> None:
        self.folder, self.small = folder, small
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        programs = Path(sys.executable).parent
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SHARELM_"))}
        self._port, self._dashboard, self._client = free_ports(3)
        self._settings = own | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path.cwd()),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            "SHARELM_CACHE": str(folder / "cache"),
            **settings,
        }
        self.address = f"127.0.0.1:{self._port}"
        self.environment = self._settings | {"RAY_ADDRESS": self.address}  # of a driver
        self._head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes] | None] = [None] * NODES

    def _ray(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        with (self.folder / "cluster.log").open("ab") as log:
            return subprocess.Popen(
                ["ray", "start", "--node-ip-address=127.0.0.1", "--block", *arguments],
                env={**self._settings, **settings},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def start(self) -> None:
        """Start a head, then the nodes; returns when they can work."""
        options = [f"--port={self._port}", f"--dashboard-port={self._dashboard}"]
        options += [f"--ray-client-server-port={self._client}", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
        self._head = self._ray("--head", "--num-cpus=0", f"--temp-dir={self.folder}/ray", *options)
        self._wait("Node status|No cluster status")
        for node in range(NODES):  # one after another: Ray tells nodes that start at once apart by their address
            self.start_node(node)
            self._wait(f"/{node + 1}.0 CPU")

    def _wait(self, words: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            said = subprocess.run(
                ["ray", "status", f"--address={self.address}"],
                env=self._settings,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            if any(word in said for word in words.split("|")):
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"the cluster did not start: see {self.folder}/cluster.log")
            time.sleep(0.3)

    def start_node(self, node: int) -> None:
        """Start a node, which joins the head; nothing where it runs."""
        running = self.nodes[node]
        if running is not None and running.poll() is None:
            return
        settings = {}
        if self.small is not None and node == NODES - 1:
            settings = {"TMPDIR": str(self.small), "SHARELM_CACHE": str(self.small / "cache")}
        self.nodes[node] = self._ray(f"--address={self.address}", "--num-cpus=1", **settings)

    def stop_node(self, node: int) -> None:
        """Kill everything of a node at once."""
        kill(self.nodes[node])
        self.nodes[node] = None

    def stop(self) -> None:
        """Kill everything at once."""
        for process in (self._head, *self.nodes):
            kill(process)
        self._head, self.nodes = None, [None] * NODES

    def workers(self) -> list[psutil.Process]:
        """Every process of the nodes."""
        found: list[psutil.Process] = []
        for process in self.nodes:
            if process is not None and process.poll() is None:
                found += psutil.Process(process.pid).children(recursive=True)
        return found


def kill(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process, where it runs, and all that it started."""
    if process is None:
        return
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for child in started:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(started, timeout=10)
