"""
This member and the others: messages in and out, snapshots in and out, questions and their answers.

    peers --received--> raft.step          raft's messages --send--> peers
    peers --snapshot_begin, snapshot_done--> engine.snapshot_receive ... raft.step ... install
    raft's SNAPSHOT --> the checkpoint that it names, streamed; how that ended --> raft.report_snapshot

Invariants:
* raft is told how every SNAPSHOT message ended.
* A received snapshot is stepped into raft when it is whole and verified, never before; one that raft does not take is
  removed.

Thread safety: the event loop's thread; verifying and installing a snapshot happen in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from fastkv.engine import ReplicatedEngine, SnapshotReader, SnapshotWriter
from fastkv.errors import Error, QuotaError
from fastkv.raft import InvariantError, Kind, Message, Node, Snapshot
from fastkv.server.cluster.membership import Membership
from fastkv.server.cluster.storage import EngineStorage
from fastkv.server.log import Log

if TYPE_CHECKING:
    from fastkv.server.peers import Peers, SnapshotSink

INSTALL_RETRY_S = 0.5

Answerer = Callable[[int, bytes], Awaitable[bytes]]


class Peering:
    """peers.PeerEvents, and the ways out. `open` gives it the transport."""

    def __init__(
        self,
        engine: ReplicatedEngine,
        raft: Node,
        storage: EngineStorage,
        log: Log,
        kick: Callable[[], None],
        fail: Callable[[Exception], None],
        on_removed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._raft = raft
        self._storage = storage
        self._log = log
        self._kick = kick
        self._fail = fail
        self._on_removed = on_removed
        self._active: dict[int, float] = {}
        self._received: dict[Snapshot, SnapshotWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: Peers | None = None
        self.answers: dict[str, Answerer] = {}
        self.on_active: Callable[[], None] = lambda: None

    def open(self, peers: Peers) -> None:
        self._peers = peers

    def set_members(self, membership: Membership) -> None:
        """Talk to these, and to nobody else."""
        if self._peers is None:
            return
        self._peers.set_members(
            {member.id: member.peer_urls for member in membership.members if member.id != self._raft.id},
            membership.removed,
        )

    async def ask(self, member: int, kind: str, body: bytes, timeout_s: float) -> bytes:
        assert self._peers is not None
        return await self._peers.ask(member, kind, body, timeout_s)

    # -- out --------------------------------------------------------------------------------------------------
    def send(self, messages: list[Message]) -> None:
        assert self._peers is not None
        if any(message.kind is Kind.SNAPSHOT for message in messages):
            for message in messages:
                if message.kind is Kind.SNAPSHOT:
                    self._spawn(self._send_snapshot(message))
            messages = [message for message in messages if message.kind is not Kind.SNAPSHOT]
        self._peers.send(messages)

    async def _send_snapshot(self, message: Message) -> None:
        assert message.snapshot is not None and self._peers is not None
        delivered = False
        reader: SnapshotReader | None = None
        began = time.monotonic()
        try:
            reader = self._storage.take_reader(message.snapshot.index)
            if reader is not None:
                self._log.info(
                    "sending database snapshot", snapshot_index=reader.index, bytes=reader.size, to=f"{message.to:x}"
                )
                delivered = await self._peers.send_snapshot(message, reader)
        finally:
            if reader is not None:
                reader.close()
        self._log.info(
            "sent database snapshot" if delivered else "failed to send database snapshot",
            snapshot_index=message.snapshot.index,
            to=f"{message.to:x}",
            took=f"{(time.monotonic() - began) * 1000:.3f}ms",
        )
        self._raft.report_snapshot(message.to, delivered=delivered)
        self._kick()

    # -- in: PeerEvents ---------------------------------------------------------------------------------------
    def received(self, messages: list[Message]) -> None:
        try:
            for message in messages:
                self._raft.step(message)
        except (InvariantError, Error) as failure:
            self._fail(failure)
        self._kick()

    def unreachable(self, member: int) -> None:
        self._raft.report_unreachable(member)
        self._kick()

    def active(self, member: int, since: float | None) -> None:
        if since is None:
            self._active.pop(member, None)
        else:
            self._active[member] = since
            self.on_active()

    def active_since(self, member: int) -> float | None:
        """Monotonic seconds; None: it is not heard from."""
        return self._active.get(member)

    def removed(self) -> None:
        self._on_removed()

    async def answer(self, member: int, kind: str, body: bytes) -> bytes:
        if (answerer := self.answers.get(kind)) is None:
            raise ValueError(f"there is no answer to {kind!r:.40}")
        return await answerer(member, body)

    # -- in: snapshots ----------------------------------------------------------------------------------------
    def snapshot_begin(self, message: Message) -> SnapshotWriter | None:
        snapshot = message.snapshot
        if snapshot is None or snapshot.index <= self._engine.applied_index or message.term < self._raft.term:
            return None
        self._log.info("receiving database snapshot", snapshot_index=snapshot.index, sender=f"{message.sender:x}")
        return self._engine.snapshot_receive(snapshot.index, snapshot.term)

    async def snapshot_done(self, message: Message, sink: SnapshotSink) -> bool:
        """All its bytes are there; whether they are a snapshot."""
        snapshot = message.snapshot
        assert snapshot is not None
        writer = cast(SnapshotWriter, sink)  # snapshot_begin has given it
        try:
            await asyncio.to_thread(writer.finish)
        except Error as error:
            self._log.warn("a snapshot cannot be used", snapshot_index=snapshot.index, error=str(error))
            writer.abort()
            return False
        if snapshot in self._received:
            writer.abort()
            return True
        self._received[snapshot] = writer
        self.received([message])
        if self._raft.log.pending_snapshot != snapshot:
            self._received.pop(snapshot).abort()
        return True

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        self._spawn(self._install(snapshot, done))

    async def _install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        writer = self._received.pop(snapshot)
        while True:
            try:
                await asyncio.to_thread(self._engine.snapshot_install, writer)
            except QuotaError:
                await asyncio.sleep(INSTALL_RETRY_S)
                continue
            except Error as failure:
                self._fail(failure)
                return
            break
        self._log.info("installed database snapshot", snapshot_index=snapshot.index)
        done()

    # -- the end ----------------------------------------------------------------------------------------------
    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            assert isinstance(failure, Exception)
            self._fail(failure)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._received.values():
            writer.abort()
        self._received.clear()
        if self._peers is not None:
            await self._peers.close()
