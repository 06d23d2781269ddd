"""Nodes for the tests of this directory: `node` is shared by a file, `start_node` makes one more."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from node.harness import NodeProcess
from support.fronts import FRONTS
from support.processes import free_ports

StartNode = Callable[..., NodeProcess]


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def node(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = NodeProcess(tmp_path_factory.mktemp("node") / "data", f"--front={front}")
    yield process
    assert process.end() == 0


@pytest.fixture
def start_node(front: str, tmp_path: Path) -> Iterator[StartNode]:
    """
    start_node(*flags, data_dir=..., program=..., credentials=...): a node that is killed behind the test if it has not
    ended.
    """
    started: list[NodeProcess] = []

    def start(
        *flags: str,
        data_dir: Path = tmp_path / "data",
        program: str = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> NodeProcess:
        if program and front == "native":
            pytest.skip("the native front end has no Python engine that could be made to fail")
        started.append(NodeProcess(data_dir, f"--front={front}", *flags, program=program, credentials=credentials))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)


@pytest.fixture
def free_port() -> int:
    """One that nobody listens on just now."""
    [port] = free_ports(1)
    return port
