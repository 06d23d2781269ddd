"""
Snapshots that arrive: what has come is kept across connections, so that an interrupted one goes on where it was.

    SNAPSHOT --> Arrivals.take: the sink that holds the beginning of the same snapshot, else events.snapshot_begin
    DATA     --> written in a thread; the connection is not read while too much waits
    END      --> events.snapshot_done, whose verdict is the answer

Invariants:
* One snapshot a sender; another one from it replaces it. A sink that nobody goes on with is aborted after
  limits.snapshot_patience_s.
* A sink is touched by one thread at a time: who takes it waits for whoever writes to it still.
* Every sink ends either in snapshot_done or aborted.
"""

from __future__ import annotations

import asyncio
from collections import deque

from fastkv.errors import Error
from fastkv.raft import Kind, Message, Snapshot
from fastkv.raft.codec import decode_message
from fastkv.server.peers.context import Context
from fastkv.server.peers.inbound import Inbound
from fastkv.server.peers.reasons import describe
from fastkv.server.peers.tasks import fault, in_thread
from fastkv.server.peers.types import SnapshotSink
from fastkv.server.peers.wire import Frame, WireError, control, decode_number

WAITING_BYTES_HIGH = 8 << 20


class Arrival:
    """A snapshot of which something is here. user: the connection that goes on with it; left_at: when the last left."""

    def __init__(self, snapshot: Snapshot, sink: SnapshotSink, user: Receiving) -> None:
        self.snapshot = snapshot
        self.sink = sink
        self.user: Receiving | None = user
        self.left_at = 0.0


class Arrivals:
    """All of them, by sender."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._arrivals: dict[int, Arrival] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def take(self, user: Receiving, message: Message) -> Arrival | None:
        """Where this snapshot's bytes go; None: it is not wanted."""
        assert message.snapshot is not None
        held = self._arrivals.get(message.sender)
        while held is not None and held.user is not None:
            await held.user.ended.wait()
            held = self._arrivals.get(message.sender)
        if held is not None:
            if held.snapshot == message.snapshot:
                held.user = user
                return held
            self._abort(message.sender)
        try:
            sink = self._context.events.snapshot_begin(message)
        except (OSError, Error) as error:
            self._context.log.warn(
                "cannot take in a snapshot", message.sender, member_id=f"{message.sender:x}", reason=describe(error)
            )
            return None
        if sink is None:
            return None
        arrival = self._arrivals[message.sender] = Arrival(message.snapshot, sink, user)
        return arrival

    def leave(self, arrival: Arrival) -> None:
        """Its user does nothing more with it. If it is not finished, the bytes stay for the next connection."""
        arrival.user = None
        arrival.left_at = self._context.loop.time()

    def finished(self, sender: int) -> SnapshotSink:
        """Its bytes are all here."""
        return self._arrivals.pop(sender).sink

    def failed(self, sender: int) -> None:
        self._abort(sender)

    def sweep(self, now: float) -> None:
        for sender, arrival in list(self._arrivals.items()):
            if arrival.user is None and now - arrival.left_at > self._context.limits.snapshot_patience_s:
                self._context.log.warn("gave up a snapshot that arrived in part", sender, member_id=f"{sender:x}")
                self._abort(sender)

    async def close(self) -> None:
        """When no connection is left."""
        if self.tasks:
            await asyncio.wait(self.tasks)
        for sender in list(self._arrivals):
            self._abort(sender)

    def _abort(self, sender: int) -> None:
        if (arrival := self._arrivals.pop(sender, None)) is not None:
            arrival.sink.abort()


class Receiving:
    """The Receiver of one SNAPSHOTS connection: at most one snapshot."""

    def __init__(self, context: Context, arrivals: Arrivals, inbound: Inbound, member: int) -> None:
        self.ended = asyncio.Event()  # nothing of this connection touches a sink any more
        self._context = context
        self._arrivals = arrivals
        self._inbound = inbound
        self._member = member
        self._message: Message | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._size: int | None = None  # what END said
        self._lost = False
        self._gave_up = False  # what the sender sends until it hears of it is ignored
        self._wake = asyncio.Event()

    # -- Receiver ---------------------------------------------------------------------------------------------
    def batch(self, frames: list[tuple[int, memoryview]]) -> None:
        for kind, body in frames:
            if self._gave_up and kind in (Frame.DATA, Frame.END):
                continue
            if kind == Frame.SNAPSHOT and self._message is None:
                self._begin(decode_message(body))
            elif kind == Frame.DATA and self._message is not None and self._size is None:
                self._waiting.append(bytes(body))
                self._waiting_bytes += len(body)
            elif kind == Frame.END and self._message is not None and self._size is None:
                self._size = decode_number(body)
            else:
                raise WireError(f"a frame of kind {kind} at this point of a snapshot's stream")
        if self._waiting_bytes > WAITING_BYTES_HIGH:
            self._inbound.connection.pause()
        self._wake.set()

    def lost(self) -> None:
        self._lost = True
        self._wake.set()

    def _begin(self, message: Message) -> None:
        own = self._context.identity.member_id
        if message.kind is not Kind.SNAPSHOT or message.to != own or message.sender != self._member:
            raise WireError(f"{message.kind.name} of {message.sender:x} to {message.to:x} on this connection")
        self._message = message
        task = self._context.loop.create_task(self._run(message))
        self._arrivals.tasks.add(task)
        task.add_done_callback(self._done)

    # -- the task ---------------------------------------------------------------------------------------------
    async def _run(self, message: Message) -> None:
        arrival: Arrival | None = None
        try:
            arrival = await self._arrivals.take(self, message)
            if arrival is None:
                self._gave_up = True
                self._reply(Frame.DONE, False)
                return
            self._reply(Frame.RESUME, arrival.sink.size)
            sink = await self._write(arrival)
        finally:
            if arrival is not None:
                self._arrivals.leave(arrival)
            self.ended.set()
        if sink is not None:
            self._reply(Frame.DONE, await self._context.events.snapshot_done(message, sink))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._arrivals.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._inbound.connection.cut("taking in the snapshot failed")
            self._arrivals.failed(self._member)
            fault(task, error)

    async def _write(self, arrival: Arrival) -> SnapshotSink | None:
        """The sink, full; None: not yet, or never."""
        sink = arrival.sink
        while True:
            if self._waiting:
                parts = list(self._waiting)
                self._waiting.clear()
                try:
                    await in_thread(_write_all, sink, parts)
                except (OSError, Error) as error:
                    self._give_up(f"cannot write it: {describe(error)}")
                    return None
                was_high = self._waiting_bytes > WAITING_BYTES_HIGH
                self._waiting_bytes -= sum(len(part) for part in parts)
                if was_high and self._waiting_bytes <= WAITING_BYTES_HIGH:
                    self._inbound.connection.resume()
            elif self._lost:
                return None
            elif self._size is not None:
                if sink.size != self._size:
                    self._give_up(f"it has {sink.size} bytes, the sender says {self._size}")
                    return None
                return self._arrivals.finished(self._member)
            else:
                self._wake.clear()
                await self._wake.wait()

    def _give_up(self, reason: str) -> None:
        self._context.log.warn(
            "a snapshot that arrived is of no use", self._member, member_id=f"{self._member:x}", reason=reason
        )
        self._gave_up = True
        self._waiting.clear()
        self._arrivals.failed(self._member)
        self._reply(Frame.DONE, False)
        self._inbound.connection.resume()

    def _reply(self, kind: Frame, value: int | bool) -> None:
        connection = self._inbound.connection
        if not connection.closing:
            connection.push(control(kind, value))
            connection.flush_soon()


def _write_all(sink: SnapshotSink, parts: list[bytes]) -> None:
    for part in parts:
        sink.write(part)
