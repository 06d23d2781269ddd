"""
The thread that writes: it takes every proposal that waits, commits them as one batch and hands all answers back at
once.

    event loop:  submit submit submit ........ submit submit ...   answers of batch 1
    committer:   [ commit batch 1 (1) ][ commit batch 2 (the rest) ][ ...

While a batch is being synced the next one gathers, so batches grow with the load and an idle node adds no delay.

Invariants:
* Batches are committed in the order of submission, one at a time.
* Every proposal taken is reported exactly once, also when the commit failed; after `stop` nothing more is accepted.
* If the thread ends in any way but `stop`, `on_end` is called, so that nobody waits for ever.
"""

from __future__ import annotations

import threading
import time
from asyncio import Future
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastkv.engine import Engine
from fastkv.errors import Error

BATCH_BYTES_MAX = 8 << 20


class Proposal(NamedTuple):
    """A command and who waits for its (code, response)."""

    tag: int
    payload: bytes
    answer: Future[tuple[int, bytes]]


class Outcome(NamedTuple):
    """results: one per proposal; or error, if the world failed and nothing was answered."""

    proposals: list[Proposal]
    results: list[tuple[int, bytes]]
    error: Error | None
    took_s: float


class Writes(Protocol):
    """The way of a node's own proposals: the Committer below, or the native front end's."""

    @property
    def waiting(self) -> int:
        """Proposals that no batch has taken yet."""

    def start(self) -> None: ...
    def submit(self, proposal: Proposal) -> bool:
        """False if the committer has been stopped."""

    def stop(self, timeout_s: float | None = None) -> bool:
        """Commit what has been submitted, then end; False if that takes longer than timeout_s."""


class Holding:
    """Writes that keep what comes, while the way to the store is changed."""

    def __init__(self) -> None:
        self.proposals: list[Proposal] = []

    @property
    def waiting(self) -> int:
        return len(self.proposals)

    def start(self) -> None:
        """There is nothing to start."""

    def submit(self, proposal: Proposal) -> bool:
        self.proposals.append(proposal)
        return True

    def stop(self, timeout_s: float | None = None) -> bool:
        return True


class Committer:
    """Owns the thread. on_outcome and on_end are called in it."""

    def __init__(self, engine: Engine, on_outcome: Callable[[Outcome], None], on_end: Callable[[], None]) -> None:
        self._engine = engine
        self._on_outcome = on_outcome
        self._on_end = on_end
        self._wake = threading.Condition()
        self._waiting: list[Proposal] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Proposals that no batch has taken yet."""
        return len(self._waiting)

    def submit(self, proposal: Proposal) -> bool:
        """False if the committer has been stopped."""
        with self._wake:
            if self._stopping:
                return False
            self._waiting.append(proposal)
            self._wake.notify()
        return True

    def stop(self, timeout_s: float | None = None) -> bool:
        """Commit what has been submitted, then end the thread; False if that takes longer than timeout_s."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        finished = False
        try:
            while batch := self._take():
                self._on_outcome(self._commit(batch))
            finished = True
        finally:
            if not finished:
                self._on_end()

    def _take(self) -> list[Proposal]:
        with self._wake:
            while not self._waiting and not self._stopping:
                self._wake.wait()
            size_bytes, count = 0, 0
            for proposal in self._waiting:
                size_bytes += len(proposal.payload)
                count += 1
                if size_bytes >= BATCH_BYTES_MAX:
                    break
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _commit(self, batch: list[Proposal]) -> Outcome:
        began = time.monotonic()
        results: list[tuple[int, bytes]] = []
        error: Error | None = None
        try:
            results = self._engine.commit([(proposal.tag, proposal.payload) for proposal in batch])
        except Error as failure:
            error = failure
        return Outcome(batch, results, error, time.monotonic() - began)
