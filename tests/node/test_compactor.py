"""Automatic compaction on a clock that the test turns, and a node that does it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fastkv.errors import Code, from_code
from fastkv.server import compactor
from fastkv.server.compactor import Periodic, Revisions
from fastkv.server.log import Log, go_duration
from node.harness import KV, bytes_field, int_field, revision_of


class Bench:
    """A store that is a number, and a clock that moves while the compactor sleeps."""

    def __init__(self, make: Callable[..., compactor.Compactor], retention: float) -> None:
        self.now_s = 0.0
        self.revision = 1
        self.revisions_a_minute = 0
        self.paused_until_s = 0.0
        self.compacted: list[tuple[float, int]] = []
        self.failures: list[Exception] = []
        self.compactor = make(
            retention, lambda: self.revision, self._compact, lambda: self.now_s, Log(logging.getLogger("bench"))
        )

    async def _compact(self, revision: int) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.compacted.append((self.now_s, revision))

    def run(self, until_s: float) -> list[tuple[float, int]]:
        """(when, what) was compacted since the last call."""

        async def sleep(seconds: float) -> None:
            if self.now_s + seconds > until_s + 1e-6:
                raise asyncio.CancelledError
            self.now_s += seconds
            self.revision += round(self.revisions_a_minute * seconds / 60)
            self.compactor.paused = self.now_s < self.paused_until_s

        self.compacted.clear()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(compactor.run(self.compactor, sleep))
        return [(round(when_s), revision) for when_s, revision in self.compacted]


def test_what_is_a_period_old_goes_every_period() -> None:
    bench = Bench(Periodic, 600.0)
    bench.revisions_a_minute = 10
    assert bench.compactor.interval_s == 60
    assert bench.run(1800) == [(600, 1), (1200, 91), (1800, 191)]


def test_of_a_long_period_the_oldest_goes_every_hour() -> None:
    bench = Bench(Periodic, 4 * 3600.0)
    bench.revisions_a_minute = 1
    assert bench.compactor.interval_s == 360
    assert bench.run(6 * 3600) == [(4 * 3600, 1), (5 * 3600, 55), (6 * 3600, 115)]


def test_a_compaction_that_fails_is_tried_at_the_next_tick() -> None:
    bench = Bench(Periodic, 600.0)
    bench.revisions_a_minute = 10
    bench.failures = [from_code(Code.NO_SPACE)]
    assert bench.run(1300) == [(660, 1), (1260, 101)]


def test_what_is_compacted_already_is_no_failure() -> None:
    bench = Bench(Periodic, 600.0)
    bench.failures = [from_code(Code.COMPACTED)]
    assert bench.run(1200) == [(1200, 1)]


def test_one_who_is_paused_goes_on_noting() -> None:
    bench = Bench(Periodic, 600.0)
    bench.revisions_a_minute = 10
    bench.paused_until_s = 1500.0
    assert bench.run(1600) == [(1500, 141)]


def test_by_revision_the_newest_stay() -> None:
    bench = Bench(Revisions, 100)
    assert bench.compactor.interval_s == 300
    assert bench.run(600) == []
    bench.revisions_a_minute = 30
    assert bench.run(1200) == [(900, 51), (1200, 201)]
    bench.revisions_a_minute = 0
    assert bench.run(1800) == [], "the same revision twice"


def test_by_revision_a_failure_is_tried_again() -> None:
    bench = Bench(Revisions, 10)
    bench.revision = 100
    bench.failures = [from_code(Code.NO_SPACE)]
    assert bench.run(600) == [(600, 90)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-9, "1ns"),
        (1.5e-6, "1.5µs"),
        (0.02, "20ms"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (5400, "1h30m0s"),
        (36000, "10h0m0s"),
        (-90, "-1m30s"),
        (0.3, "300ms"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_a_node_compacts_what_is_a_period_old(start_node: Any) -> None:
    node = start_node("--auto-compaction-retention=1s")
    started = node.wait_log("starting an etcd server")
    assert (started["auto-compaction-retention"], started["auto-compaction-interval"]) == ("1s", "100ms")
    first = node.put(b"a", b"1")
    node.put(b"a", b"2")
    while node.call(KV, "Range", bytes_field(1, b"a") + int_field(4, first)).code == 0:
        assert revision_of(node.get(b"a")) == first + 1
    assert node.wait_log("completed auto periodic compaction")["compact-period"] == "1s"
