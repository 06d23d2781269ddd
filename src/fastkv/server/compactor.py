"""
Automatic compaction: which revision is to be compacted when, as etcd decides it.

    periodic, 10m    every minute the revision is noted; from the 10th on, the oldest is compacted every 10 minutes
    periodic, 24h    every 6 minutes the revision is noted; from the 24th hour on, the oldest is compacted every hour
    revision, 1000   every 5 minutes all but the newest 1000 revisions are compacted

Owns no task and no clock: `run` drives either kind with the sleep it is given. In a cluster the leader compacts: a
member that is none is paused, and goes on noting revisions.

Invariants:
* What was noted less than the period ago is never compacted, nor what is among the newest revisions to be kept.
* A compaction that fails is tried again at the next tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from fastkv.errors import CompactedError, Error
from fastkv.server.log import Log, go_duration

HOUR_S = 3600.0
NOTES_A_PERIOD = 10
REVISION_INTERVAL_S = 300.0

Compact = Callable[[int], Awaitable[object]]


class Compactor(Protocol):
    """paused: ticks do nothing but note."""

    paused: bool

    @property
    def interval_s(self) -> float:
        """Between two ticks."""

    def note(self) -> None:
        """Before every interval."""

    async def tick(self) -> None:
        """Behind every interval."""


async def run(compactor: Compactor, sleep: Callable[[float], Awaitable[None]]) -> None:
    """For ever."""
    while True:
        compactor.note()
        await sleep(compactor.interval_s)
        if not compactor.paused:
            await compactor.tick()


class Periodic:
    """Keeps the history of the last period_s seconds."""

    def __init__(
        self, period_s: float, revision: Callable[[], int], compact: Compact, now: Callable[[], float], log: Log
    ) -> None:
        self.paused = False
        self._period_s = period_s
        self._every_s = min(period_s, HOUR_S)
        self._revision = revision
        self._compact = compact
        self._now = now
        self._log = log
        # The first one is always the revision of one period ago.
        self._noted: deque[int] = deque(maxlen=int(period_s / self.interval_s + 1e-9) + 1)
        self._not_before = now() + period_s

    @property
    def interval_s(self) -> float:
        return self._every_s / NOTES_A_PERIOD

    def note(self) -> None:
        self._noted.append(self._revision())

    async def tick(self) -> None:
        if self._now() < self._not_before:
            return
        revision, began, period = self._noted[0], self._now(), go_duration(self._period_s)
        self._log.info("starting auto periodic compaction", revision=revision, compact_period=period)
        try:
            await _compact(self._compact, revision)
        except Error as error:
            self._log.warn(
                "failed auto periodic compaction",
                revision=revision,
                compact_period=period,
                retry_interval=go_duration(self.interval_s),
                error=str(error),
            )
            self._not_before = self._now()
            return
        took = go_duration(self._now() - began)
        self._log.info("completed auto periodic compaction", revision=revision, compact_period=period, took=took)
        self._not_before = self._now() + self._every_s


class Revisions:
    """Keeps the last `retention` revisions."""

    interval_s = REVISION_INTERVAL_S

    def __init__(
        self, retention: int, revision: Callable[[], int], compact: Compact, now: Callable[[], float], log: Log
    ) -> None:
        self.paused = False
        self._retention = retention
        self._revision = revision
        self._compact = compact
        self._now = now
        self._log = log
        self._compacted = 0

    def note(self) -> None:
        """Revisions are their own notes."""

    async def tick(self) -> None:
        revision, began = self._revision() - self._retention, self._now()
        if revision <= 0 or revision == self._compacted:
            return
        kept = {"revision": revision, "revision_compaction_retention": self._retention}
        self._log.info("starting auto revision compaction", **kept)
        try:
            await _compact(self._compact, revision)
        except Error as error:
            retry = go_duration(self.interval_s)
            self._log.warn("failed auto revision compaction", **kept, retry_interval=retry, error=str(error))
            return
        self._compacted = revision
        self._log.info("completed auto revision compaction", **kept, took=go_duration(self._now() - began))


async def _compact(compact: Compact, revision: int) -> None:
    with suppress(CompactedError):  # somebody has done it already
        await compact(revision)
