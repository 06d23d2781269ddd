"""
Batches on their way through Raft: from who gathered them to their fate.

    source --take--> raft.propose --+--> committed: applied, and answered by the engine
      ^                             +--> lost: it can never commit; proposed again at once, as it was
      |                             +--> uncertain: a snapshot swallowed it; an error
      +---settle---- its time is up, or it belongs to a term that is over

A batch is taken only when it can be proposed: while there is no leader it gathers at its source. One that was taken and
dropped is held, in front of all others.

Invariants:
* A batch has at most one open proposal, so it is applied at most once.
* A batch of a bound source is proposed in the term it was taken in or never: what a leader decides by its own clock
  must not come true under its successor.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fastkv.errors import Error
from fastkv.raft import NO_MEMBER, Entry, Node, ProposalDropped, batch_origin
from fastkv.rpc.status import deadline_exceeded, no_leader, timed_out

# A follower's open batches: one is being appended by the leader while the next one travels.
FOLLOWER_OPEN_MAX = 2
OPEN_MAX = 1024
OPEN_BYTES_MAX = 64 << 20


class Source(Protocol):
    """Who gathers commands."""

    bound: bool

    def take(self) -> tuple[int, bytes] | None:
        """(sequence, data) of all that waits, as far as it fits into one batch."""

    def settle(self, sequence: int, error: Error) -> None:
        """The batch ends with an error."""


class Batch(NamedTuple):
    sequence: int
    data: bytes
    source: Source
    taken_at: float
    term: int


class Proposals:
    def __init__(self, raft: Node, sources: list[Source], now: Callable[[], float], timeout_s: float) -> None:
        """Sources in front come first."""
        self._raft = raft
        self._sources = sources
        self._now = now
        self._timeout_s = timeout_s
        self._open: dict[int, Batch] = {}
        self._open_bytes = 0
        self._held: deque[Batch] = deque()
        self.refuse_with: Error | None = None  # while it is set, what comes gets this

    def add_source(self, source: Source) -> None:
        self._sources.append(source)

    def pull(self, *, syncing: bool) -> None:
        """Propose what waits, if it is time. syncing: the disk is busy with what was proposed before."""
        raft = self._raft
        if self.refuse_with is not None:
            self._refuse(self.refuse_with)
            return
        while self._has_room(syncing) and (batch := self._next()) is not None:
            try:
                raft.propose(batch.data)
            except ProposalDropped:
                self._held.appendleft(batch)
                return
            self._open[batch.sequence] = batch
            self._open_bytes += len(batch.data)

    def _has_room(self, syncing: bool) -> bool:
        raft = self._raft
        if raft.leader == NO_MEMBER or raft.transferee != NO_MEMBER:
            return False
        if not raft.is_leader:
            return len(self._open) < FOLLOWER_OPEN_MAX
        return not syncing and len(self._open) < OPEN_MAX and self._open_bytes < OPEN_BYTES_MAX

    def _next(self) -> Batch | None:
        if self._held:
            return self._held.popleft()
        for source in self._sources:
            if (taken := source.take()) is not None:
                return Batch(*taken, source, self._now(), self._raft.term)
        return None

    def _refuse(self, error: Error) -> None:
        while (batch := self._next()) is not None:
            batch.source.settle(batch.sequence, error)

    # -- fates ------------------------------------------------------------------------------------------------
    def committed(self, entries: list[Entry]) -> None:
        """Own batches among these will be applied and answered: nothing more can become of them."""
        own = self._raft.id
        for entry in entries:
            if not self._open:
                return
            origin, sequence = batch_origin(entry.data)
            if origin == own:
                self._close(sequence)

    def _close(self, sequence: int) -> Batch | None:
        batch = self._open.pop(sequence, None)
        if batch is not None:
            self._open_bytes -= len(batch.data)
        return batch

    def lost(self, sequences: list[int]) -> None:
        """They can never commit: in their order they are the next ones to be proposed."""
        batches = [batch for sequence in sequences if (batch := self._close(sequence)) is not None]
        for batch in reversed(batches):
            if batch.source.bound:
                batch.source.settle(batch.sequence, no_leader())
            else:
                self._held.appendleft(batch)

    def uncertain(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if (batch := self._close(sequence)) is not None:
                batch.source.settle(sequence, timed_out())

    def new_term(self) -> None:
        """What is bound to an earlier term and not proposed will not be."""
        held, self._held = self._held, deque()
        for batch in held:
            if batch.source.bound and batch.term != self._raft.term:
                batch.source.settle(batch.sequence, no_leader())
            else:
                self._held.append(batch)

    def tick(self) -> None:
        """Nobody waits any more for what was taken too long ago and never proposed."""
        late = self._now() - self._timeout_s
        while self._held and self._held[0].taken_at < late:
            batch = self._held.popleft()
            batch.source.settle(batch.sequence, deadline_exceeded())

    def close(self, error: Error) -> None:
        """Everybody who waits gets the error."""
        for batch in (*self._open.values(), *self._held):
            batch.source.settle(batch.sequence, error)
        self._open.clear()
        self._held.clear()
        self._refuse(error)
