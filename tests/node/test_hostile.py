"""
Clients that only cost: what they can take from a node is bounded, and the others do not notice.

The limits of one session, each by itself, are cpp/tests/front_abuse_test.cc's; the numbers stand in docs/limits.md.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.harness import DEADLINE_S, NodeProcess

StartNode = Callable[..., NodeProcess]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # with empty SETTINGS
CONNECTIONS = 10_000
BYTES_A_CONNECTION_MAX = 24 << 10
SPARE_DESCRIPTORS = 500


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """How many connections this process may open: its limit is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else CONNECTIONS + SPARE_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield min(CONNECTIONS, wanted - SPARE_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(node: NodeProcess) -> int:
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def connect(node: NodeProcess) -> socket.socket:
    host, _, port = node.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


@contextlib.contextmanager
def idle(node: NodeProcess, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that say something and then nothing; all of them have been heard."""
    clients = []
    try:
        for _ in range(count):
            clients.append(connect(node))
            clients[-1].sendall(said)
        yield clients
    finally:
        for client in clients:
            client.close()


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def test_ten_thousand_idle_connections_cost_little(start_node: StartNode, front: str, many_descriptors: int) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here: the resident size cannot be read")
    # A connection through the grpcio front end takes three descriptors, of its relay and of grpcio.
    count = many_descriptors if front == "native" else min(1000, many_descriptors)
    node = start_node("--unsafe-no-fsync")
    node.put(b"k", b"v")
    before = resident_bytes(node)
    with idle(node, count, PREFACE) as clients:
        for client in clients:
            assert client.recv(9), "its SETTINGS"
        cost = (resident_bytes(node) - before) / count
        assert cost < BYTES_A_CONNECTION_MAX * (1 if front == "native" else 8), f"{cost:.0f} bytes a connection"
        began = time.perf_counter()
        for _ in range(20):
            assert node.value(b"k") == b"v"
        assert time.perf_counter() - began < DEADLINE_S / 10, "the others are served meanwhile"
        opened = resident_bytes(node)
    assert node.value(b"k") == b"v"
    assert resident_bytes(node) <= opened + (8 << 20), "closing them costs nothing"


@pytest.mark.parametrize(
    "said",
    [b"", b"PRI * HTTP", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", b"\x16\x03\x01\x02\x00"],
    ids=["nothing", "a part of the preface", "a part of a request", "a part of a TLS record"],
)
def test_who_stops_speaking_holds_up_nobody(start_node: StartNode, said: bytes) -> None:
    node = start_node("--unsafe-no-fsync")
    with idle(node, 200, said):
        assert node.put(b"k", b"v") == 2
        assert node.http("GET", "/health").status == 200


def test_a_request_that_trickles_in_is_still_bounded(node: NodeProcess) -> None:
    with connect(node) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        received = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                client.sendall(b"X-Header: %s\r\n" % (b"x" * 1000))
        with contextlib.suppress(ConnectionResetError):
            received = client.recv(65536)
        assert received[:12] in (b"", b"HTTP/1.1 431", b"HTTP/1.1 400"), "a megabyte of headers is not taken"
