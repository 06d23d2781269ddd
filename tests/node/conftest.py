"""Nodes for the tests of this directory: `node` is shared by a file, `start_node` makes one more."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.harness import NodeProcess

StartNode = Callable[..., NodeProcess]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = NodeProcess(tmp_path_factory.mktemp("node") / "data")
    yield process
    assert process.end() == 0


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """start_node(*flags, data_dir=...): a node that is killed behind the test if the test did not end it."""
    started: list[NodeProcess] = []

    def start(*flags: str, data_dir: Path = tmp_path / "data") -> NodeProcess:
        started.append(NodeProcess(data_dir, *flags))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)
