"""
The servers that bench/server.py compares: started in a directory of their own on ports that the kernel chose, ended by
their process id.

    etcd     a real etcd 3.7 (FASTKV_ETCD37, or what `make peers` built)
    native   `fastkv serve --front native`
    grpcio   `fastkv serve --front grpcio`, the portable front end on the native engine
    python   the same with FASTKV_ENGINE=python: what pure Python costs

Where this fastkv has no --front yet, its only front end is grpcio's, and native is not there.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadgen import Generator, WorkloadFailed

SOURCE = Path(__file__).resolve().parents[1] / "src"
NAMES = ("etcd", "native", "grpcio", "python")
STOP_S = 60.0
QUOTA_BYTES = 8 << 30


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def etcd_binary() -> Path | None:
    """The real etcd 3.7, or None."""
    if named := os.environ.get("FASTKV_ETCD37"):
        return Path(named) if os.access(named, os.X_OK) else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastkv/peers"
    built = Path(os.environ.get("FASTKV_PEERS") or cache) / "3.7.3/bin/etcd"
    return built if os.access(built, os.X_OK) else None


def environment(name: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "FASTKV_"))}
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return kept | {"PYTHONPATH": path, "FASTKV_ENGINE": "python" if name == "python" else "native"}


def fastkv_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fastkv", *words]


@functools.cache
def has_fronts() -> bool:
    """Whether this fastkv lets one choose the front end."""
    help_text = subprocess.run(
        fastkv_command("serve", "--help"), capture_output=True, text=True, env=environment("grpcio"), timeout=STOP_S
    )
    return "--front" in help_text.stdout + help_text.stderr


def absence(name: str) -> str | None:
    """Why this server cannot be measured here; None if it can."""
    if name == "etcd" and etcd_binary() is None:
        return "no etcd 3.7: set FASTKV_ETCD37 or run `make peers`"
    if name == "native" and not has_fronts():
        return "this fastkv has no --front"
    return None


class Server:
    """One server on one data directory; restartable there."""

    def __init__(self, name: str, base: Path, generator: Generator) -> None:
        self.name, self.base, self.generator = name, base, generator
        base.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.target = ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _command(self) -> list[str]:
        client, peer = free_ports(2)
        self.target = f"127.0.0.1:{client}"
        peer_url = f"http://127.0.0.1:{peer}"
        flags = {
            "data-dir": self.base / "data",
            "listen-client-urls": f"http://{self.target}",
            "advertise-client-urls": f"http://{self.target}",
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"default={peer_url}",
            "quota-backend-bytes": QUOTA_BYTES,
            "log-level": "error",
        }
        if self.name != "etcd" and has_fronts():
            flags["front"] = "native" if self.name == "native" else "grpcio"
        words = [f"--{key}={value}" for key, value in flags.items()]
        return [str(etcd_binary()), *words] if self.name == "etcd" else fastkv_command("serve", *words)

    def start(self, revision: int = 0) -> float:
        """Seconds from the start of the process to the first answered linearizable get.

        With a revision the get must find the store at it, with the first loaded key.
        """
        command = self._command()
        started = time.monotonic()
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(self.name)
            )
        answered: float = self.run("first-get", key_bytes=40, revision=revision)["at_s"]
        if self.name == "native" and "/_front." not in Path(f"/proc/{self.pid}/maps").read_text():
            raise WorkloadFailed("the native front end was asked for, and another one serves")
        return answered - started

    def run(self, workload: str, **options: int) -> dict[str, Any]:
        """A workload of the load generator against this server: what it measured, and with which options."""
        result: dict[str, Any] = self.generator.run(workload, self.target, **options, server_pid=self.pid)
        return result | {"options": options}

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def log_tail(self) -> str:
        log = self.base / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""


@contextmanager
def serving(name: str, base: Path, generator: Generator) -> Iterator[Server]:
    """A fresh server, gone afterwards."""
    server = Server(name, base, generator)
    try:
        server.start()
        yield server
    finally:
        server.stop()
