"""
What every test may ask for: an engine (each test runs on the native and on the Python one), fresh servers, --rewrite.

FASTKV_ENGINE=native|python narrows the engines to one. An engine that cannot be loaded fails the tests that ask for it,
with the reason: it never skips them. What needs a real etcd is skipped only where there is none, and the skip names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastkv import engine as protocol
from support.engines import ENGINES, load_engine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        metavar="TARGET",
        default="",
        help="golden scripts: write down what TARGET (native, python, node, etcd) answers instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "etcd: compares with a real etcd (FASTKV_ETCD37, or `etcd` on PATH)")
    config.addinivalue_line("markers", "node: starts `fastkv serve`")
    config.addinivalue_line("markers", "random: takes seeds; a failure prints the command that replays it")
    config.addinivalue_line("markers", "huge: needs some 10 GiB of memory and minutes; only with -m huge (make huge)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "huge" in config.option.markexpr:
        return
    huge = [item for item in items if item.get_closest_marker("huge")]
    config.hook.pytest_deselected(items=huge)
    items[:] = [item for item in items if item not in huge]


@pytest.fixture(params=ENGINES)
def engine_class(request: pytest.FixtureRequest) -> type:
    return load_engine(request.param)


@pytest.fixture
def open_engine(engine_class: type) -> Iterator[Callable[..., Any]]:
    """open_engine(path or None, **options): all are checked and closed behind the test."""
    opened: list[Any] = []

    def make(path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        opened.append(engine_class(os.fspath(path) if path is not None else None, protocol.Options(**options)))
        return opened[-1]

    yield make
    for engine in opened:
        if not engine.closed:
            problems = engine.check()
            engine.close()
            assert problems == []


@pytest.fixture
def engine(open_engine: Callable[..., Any]) -> Any:
    """An empty engine in memory."""
    return open_engine(None)


@pytest.fixture(scope="session")
def warm_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """warm_servers("node-native") or ("etcd-3.7.3"): a ready server with an empty store; the taker stops it."""
    from support.processes import Etcd, FastkvNode, Warm, etcd_binaries

    pools: dict[str, Warm] = {}

    def take(name: str) -> Any:
        if name not in pools:
            base = tmp_path_factory.mktemp(name)
            if name.startswith("node-"):
                flags = ("--unsafe-no-fsync", f"--front={name.removeprefix('node-')}")
                pools[name] = Warm(lambda number: FastkvNode(base / str(number), flags))
            else:
                [binary] = [item for item in etcd_binaries() if item.name == name]
                pools[name] = Warm(lambda number: Etcd(binary, base / str(number)))
        return pools[name].take()

    yield take
    for pool in pools.values():
        pool.close()
