"""
Real servers as child processes: an etcd, a fastkv node. Started on free ports of 127.0.0.1, awaited with a deadline,
ended by their own pid.

Which etcd: FASTKV_ETCD37 (a path to etcd's binary; it must exist if it is set), then `etcd` on PATH. What is missing is
named, never silently passed over.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from support.client import Client
from support.protos import rpc

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Binary(NamedTuple):
    """An etcd on this machine; `version` as numbers, to compare."""

    path: str
    version: tuple[int, int, int]

    @property
    def name(self) -> str:
        return "etcd-" + ".".join(map(str, self.version))

    def tool(self, name: str) -> str | None:
        """`etcdctl` of the same release: beside the server, or on PATH for the one on PATH."""
        beside = Path(self.path).resolve().parent / name
        return str(beside) if beside.exists() else None


@cache
def etcd_binaries() -> tuple[Binary, ...]:
    """The etcd releases to compare with, newest first; empty if there is none."""
    found: dict[tuple[int, int, int], Binary] = {}
    asked = os.environ.get("FASTKV_ETCD37")
    if asked and not os.access(asked, os.X_OK):
        raise FileNotFoundError(f"FASTKV_ETCD37={asked}: not an executable")
    for path in (asked, shutil.which("etcd")):
        if path:
            version = _version(path)
            found.setdefault(version, Binary(path, version))
    return tuple(sorted(found.values(), key=lambda binary: binary.version, reverse=True))


def _version(path: str) -> tuple[int, int, int]:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise RuntimeError(f"{path} --version says {text!r}")
    return int(match[1]), int(match[2]), int(match[3])


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


class Server:
    """One child process that serves etcd's API; start() returns at once, wait_ready() when it answers a read."""

    def __init__(self, name: str, data_dir: Path, flags: tuple[str, ...] = ()) -> None:
        self.name = name
        self.data_dir = data_dir
        self.flags = flags
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.client_port, self.peer_port = free_ports(2)
        self.endpoint = f"127.0.0.1:{self.client_port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "ETCDCTL_"))}

    def start(self) -> None:
        assert self.process is None, f"{self.name} runs already"
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        client = Client(self.endpoint)
        try:
            while True:
                assert self.process is not None
                if self.process.poll() is not None:
                    raise AssertionError(f"{self.name} ended with status {self.process.returncode}\n{self.log_tail()}")
                answer = client.call("Range", rpc.RangeRequest(key=b"ready"), timeout_s=0.5, wait=True)
                if answer.code == 0:
                    self.check()
                    return
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} not ready in {READY_TIMEOUT_S} s: {answer}\n{self.log_tail()}")
        finally:
            client.close()

    def check(self) -> None:
        """Fail unless it runs as it was asked to."""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End it and return its status; SIGKILL follows if the asked signal is not obeyed in time: a failure."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signal_number)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} ignored signal {signal_number}\n{self.log_tail()}") from None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self, signal_number: int = signal.SIGTERM) -> None:
        """The same directory and ports again."""
        self.stop(signal_number)
        self.start()
        self.wait_ready()


class Etcd(Server):
    """A real etcd of one member."""

    def __init__(self, binary: Binary, data_dir: Path, flags: tuple[str, ...] = ()) -> None:
        super().__init__(binary.name, data_dir, flags)
        self.binary = binary

    def command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peer_port}"
        client = f"http://{self.endpoint}"
        unsafe = ["--unsafe-no-fsync"] if self.binary.version >= (3, 5, 0) else []
        return [
            *(self.binary.path, "--name", "default", "--data-dir", str(self.data_dir)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
            *unsafe,
            *self.flags,
        ]


class FastkvNode(Server):
    """`fastkv serve` from this checkout, with this interpreter."""

    def __init__(self, data_dir: Path, flags: tuple[str, ...] = ()) -> None:
        super().__init__("fastkv serve", data_dir, flags)

    def command(self) -> list[str]:
        client = f"http://{self.endpoint}"
        return [
            *(sys.executable, "-m", "fastkv", "serve", "--name", "default", "--data-dir", str(self.data_dir)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *self.flags,
        ]

    def check(self) -> None:
        for flag in self.flags:
            if flag.startswith("--front="):
                running = f'"front":"{flag.removeprefix("--front=")}"'
                assert running in self.log_path.read_text(errors="replace"), f"not {running}\n{self.log_tail()}"

    def environment(self) -> dict[str, str]:
        paths = [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
        return super().environment() | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Warm:
    """Fresh servers with no waiting: the next few are already starting while a test uses the one it took."""

    def __init__(self, make: Callable[[int], Server], ahead: int = 2) -> None:
        self._make = make
        self._ahead = ahead
        self._made = 0
        self._waiting: deque[Server] = deque()

    def take(self) -> Server:
        """A ready server with an empty store; the taker stops it."""
        while len(self._waiting) <= self._ahead:
            server = self._make(self._made)
            self._made += 1
            server.start()
            self._waiting.append(server)
        server = self._waiting.popleft()
        server.wait_ready()
        return server

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().kill()
