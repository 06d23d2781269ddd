"""
What the tests of the embedded API share: stores on every engine, checked and closed behind each test, and a clock that
stands still.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastkv
from support.engines import ENGINES, load_engine

Open = Callable[..., fastkv.DB]


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    load_engine(request.param)
    return str(request.param)


@pytest.fixture
def open_db(engine_name: str) -> Iterator[Open]:
    """open_db(path=":memory:", **options): what is still open behind the test must pass `check`."""
    opened: list[fastkv.DB] = []

    def open(path: str | os.PathLike[str] = ":memory:", **options: Any) -> fastkv.DB:
        opened.append(fastkv.open(path, engine=engine_name, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open
    for db in opened:
        if not db.closed:
            problems = db.check()
            db.close()
            assert problems == []


@pytest.fixture
def db(open_db: Open) -> fastkv.DB:
    return open_db()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "data"


class StandingClock:
    """A lessor's clock that moves when it is told to, and can say when somebody waits for it."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._condition: threading.Condition | None = None

    def now(self) -> float:
        return self._now

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        self._condition = condition
        condition.wait()

    def advance(self, seconds: float) -> None:
        self._now += seconds
        if self._condition is not None:
            with self._condition:
                self._condition.notify_all()


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()
