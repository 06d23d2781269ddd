"""
The one loop that drives raft.Node: persist -> send -> apply -> advance, as raft/core.py asks.

    turn:  pull proposals and reads -> ready --+--> messages                  to the peers, before the disk has anything
             ^                                 +--> snapshot, entries, hard state   one write
             |                                 |         `-- sync -- persisted, messages_after_persist
             +---------------------------------+--> committed                 to the engine

Whatever happens (a message, a tick, a sync that is done, a proposal) changes raft.Node or a queue and calls `kick`; a
turn then takes all that is ready. Turns are not nested and nothing in one waits.

A sync costs a thread two wake-ups. With one client there is nothing else to do meanwhile, so a short write is synced on
the spot while syncs are quick; under load in a thread, beside receiving, sending and applying.

Invariants:
* Writes are made in the order of their Readys; a snapshot is installed in its place among them.
* persisted(n) follows a sync that began after the write of n; messages_after_persist of n follow it.
* A full disk delays writes and loses none; a failed write or sync ends the node.

Thread safety: the event loop's thread, but for the sync.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from fastkv.engine import ReplicatedEngine
from fastkv.errors import Error, QuotaError
from fastkv.raft import Entry, HardState, InvariantError, Message, Node, ReadState, Ready, Snapshot, SoftState
from fastkv.server.cluster.applying import Answers, Applier

if TYPE_CHECKING:
    import asyncio

# On the spot is synced only so much, while syncs are as quick as that.
ON_THE_SPOT_BYTES = 8 << 10
ON_THE_SPOT_SYNC_S = 0.001
FULL_DISK_RETRY_S = 0.2
SMOOTHING = 0.1


class Parts(Protocol):
    """What the loop calls; nothing of it may wait."""

    def pull(self) -> None:
        """Hand raft.Node what waits to be proposed and read."""

    def is_idle(self) -> bool:
        """Whether no client waits for the turn after this one."""

    def send(self, messages: list[Message]) -> None: ...
    def soft_state(self, state: SoftState) -> None: ...
    def committed(self, entries: list[Entry]) -> None: ...
    def applied(self, entries: list[Entry], answers: Answers) -> None: ...
    def change(self, entry: Entry) -> bytes | None:
        """As in Applier."""

    def reads(self, states: list[ReadState]) -> None: ...
    def fates(self, lost: list[int], uncertain: list[int]) -> None: ...
    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        """Put the received snapshot in the place of the state; QuotaError is tried again by itself."""

    def disk_is_full(self, error: Error | None) -> None:
        """Writes are delayed; None: no more."""


class Loop:
    def __init__(
        self,
        engine: ReplicatedEngine,
        raft: Node,
        parts: Parts,
        loop: asyncio.AbstractEventLoop,
        fail: Callable[[Exception], None],
        *,
        sync: bool,
    ) -> None:
        """sync: False if a write need not survive the machine."""
        self._engine = engine
        self._raft = raft
        self._parts = parts
        self._loop = loop
        self._fail = fail
        self._sync_wanted = sync
        self.applier = Applier(engine, raft, loop, parts.applied, parts.change, self._failed)
        self._written = HardState(*engine.log_state())
        self._hard_state = self._written
        self._unwritten: deque[Ready] = deque()
        self._installing = False
        self._full = False
        self._full_told = False
        self._installs: dict[int, int] = {}  # number of a Ready -> index of its snapshot, which the engine holds
        self._unsynced: deque[Ready] = deque()
        self._unsynced_bytes = 0
        self._sync_s = 0.0  # smoothed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")
        self._scheduled = False
        self._ended = False
        self.syncing = False
        self.durable_commit = self._written.commit  # a commit index that the disk knows of

    # -- turns ------------------------------------------------------------------------------------------------
    def kick(self) -> None:
        """Something has happened."""
        if not self._scheduled and not self._ended:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._ended:
            return
        try:
            self._work()
        except (InvariantError, Error) as failure:
            self._failed(failure)

    def _work(self) -> None:
        raft = self._raft
        while not self._ended:
            self._parts.pull()
            while raft.has_ready():
                self._carry_out(raft.ready())
            self._write()
            if not (self._sync() or self.applier.work()):
                return

    def _carry_out(self, ready: Ready) -> None:
        parts = self._parts
        if ready.soft_state is not None:
            parts.soft_state(ready.soft_state)
        if ready.messages:
            parts.send(ready.messages)
        if ready.committed:
            parts.committed(ready.committed)
            self.applier.add(ready.committed)
        if ready.lost or ready.uncertain:
            parts.fates(ready.lost, ready.uncertain)
        if ready.read_states:
            parts.reads(ready.read_states)
        if ready.hard_state is not None:
            self._hard_state = ready.hard_state
        self._unwritten.append(ready._replace(hard_state=self._hard_state))

    # -- writing ----------------------------------------------------------------------------------------------
    def _write(self) -> None:
        while self._unwritten and not self._installing and not self._full:
            ready = self._unwritten[0]
            if ready.snapshot is not None:
                self._install(ready.snapshot)
                return
            try:
                self._append(ready)
            except QuotaError as error:
                self._full = self._full_told = True
                self._parts.disk_is_full(error)
                self._loop.call_later(FULL_DISK_RETRY_S, self._retry)
                return
            self._unwritten.popleft()
            self._unsynced.append(ready)

    def _append(self, ready: Ready) -> None:
        # The commit index alone is not worth a write: it goes with the next entries, and a leader tells it again.
        if not ready.entries and not ready.must_sync:
            return
        assert ready.hard_state is not None
        self._engine.log_append(ready.entries, ready.hard_state, self._raft.is_alone())
        self._written = ready.hard_state
        self._unsynced_bytes += sum([len(entry.data) for entry in ready.entries])
        if self._full_told:
            self._full_told = False
            self._parts.disk_is_full(None)

    def _retry(self) -> None:
        self._full = False
        self.kick()

    def write_commit(self, *, sync: bool) -> None:
        """Nobody needs the commit index on disk to be safe, but it tells a restart what it may apply at once. sync: and
        others ask whether it is there."""
        if self._unwritten or self._ended or (self._hard_state == self._written and not sync):
            return  # it goes with what waits already
        try:
            self._engine.log_append([], self._hard_state, self._raft.is_alone())
            self._written = self._hard_state
            if sync:
                self._engine.log_sync()
                self.durable_commit = self._written.commit
        except QuotaError:
            return  # there will be a next time

    def _install(self, snapshot: Snapshot) -> None:
        self._installing = True

        def begin() -> None:
            self._parts.install(snapshot, lambda: self._installed(snapshot))

        self.applier.hold(begin)

    def _installed(self, snapshot: Snapshot) -> None:
        """The engine holds it. The rest of its Ready is written behind it."""
        self._installing = False
        ready = self._unwritten[0]
        assert ready.snapshot is snapshot, "snapshots are installed in their order"
        self._unwritten[0] = ready._replace(snapshot=None, must_sync=True)
        self._installs[ready.number] = snapshot.index
        self.applier.go_on(snapshot.index)
        self.kick()

    # -- syncing ----------------------------------------------------------------------------------------------
    def _sync(self) -> bool:
        """Make what is written durable; whether anything is by now."""
        if self.syncing or not self._unsynced:
            return False
        number = self._unsynced[-1].number
        if not self._sync_wanted or not any(ready.must_sync for ready in self._unsynced):
            self._persisted(number)
            return True
        on_the_spot = self._unsynced_bytes <= ON_THE_SPOT_BYTES and self._sync_s < ON_THE_SPOT_SYNC_S
        self._unsynced_bytes = 0
        commit = self._written.commit
        if on_the_spot and self._parts.is_idle():
            began = time.monotonic()
            self._engine.log_sync()
            self._synced(number, commit, time.monotonic() - began)
            return True
        self.syncing = True
        self._thread.submit(self._sync_in_thread, number, commit)
        return False

    def _sync_in_thread(self, number: int, commit: int) -> None:
        began = time.monotonic()
        try:
            self._engine.log_sync()
        except Error as failure:
            self._loop.call_soon_threadsafe(self._failed, failure)
            return
        self._loop.call_soon_threadsafe(self._synced_in_thread, number, commit, time.monotonic() - began)

    def _synced_in_thread(self, number: int, commit: int, took_s: float) -> None:
        self.syncing = False
        if self._ended:
            return
        try:
            self._synced(number, commit, took_s)
            self._work()
        except (InvariantError, Error) as failure:
            self._failed(failure)

    def _synced(self, number: int, commit: int, took_s: float) -> None:
        self._sync_s += SMOOTHING * (took_s - self._sync_s)
        self.durable_commit = max(self.durable_commit, commit)
        self._persisted(number)

    def _persisted(self, number: int) -> None:
        done: list[Ready] = []
        while self._unsynced and self._unsynced[0].number <= number:
            done.append(self._unsynced.popleft())
        self._raft.persisted(number)
        for ready in done:
            if self._installs and (index := self._installs.pop(ready.number, 0)):
                self._raft.applied(index)
            if ready.messages_after_persist:
                self._parts.send(ready.messages_after_persist)

    # -- the end ----------------------------------------------------------------------------------------------
    def _failed(self, failure: Exception) -> None:
        self._ended = True
        self._fail(failure)

    def close(self) -> None:
        """Nothing happens any more; what is being synced and applied is waited for. Not on the event loop's thread."""
        self._ended = True
        self._thread.shutdown(wait=True)
        self.applier.close()
