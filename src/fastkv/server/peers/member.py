"""Another member, as a target: its two links, what was asked of it, and what the node is told about it."""

from __future__ import annotations

import asyncio
import time

from fastkv.raft import Message
from fastkv.server.peers.context import Context
from fastkv.server.peers.link import Link
from fastkv.server.peers.requests import Questions
from fastkv.server.peers.snapshot_send import SnapshotSending
from fastkv.server.peers.types import PeerError, SnapshotSource
from fastkv.server.peers.wire import Frame, Stream, WireError, decode_answer


class Member:
    """`known`: the node named it; otherwise it has introduced itself and is dropped when it leaves."""

    def __init__(self, context: Context, member_id: int, urls: tuple[str, ...], known: bool) -> None:
        self.id = member_id
        self.urls = urls
        self.known = known
        self.is_active = False
        self._context = context
        self._closing = False
        self._troubled: set[Stream] = set()
        self._questions = Questions(context)
        self._sending: SnapshotSending | None = None
        self._sending_task: asyncio.Task[bool] | None = None
        limits = context.limits
        self.appends = Link(context, member_id, Stream.APPENDS, urls, limits.urgent_bytes_max, self, self._answered)
        self.urgent = Link(context, member_id, Stream.URGENT, urls, limits.urgent_bytes_max, self, self._answered)

    def retire(self) -> None:
        """The node hears nothing more of it; `close` is to follow."""
        self._closing = True
        if self.is_active:
            self.is_active = False
            self._context.loop.call_soon(self._context.events.active, self.id, None)

    async def close(self) -> None:
        sending = self._sending_task
        if sending is not None:
            sending.cancel()
            await asyncio.wait((sending,))
        await asyncio.gather(self.appends.close(), self.urgent.close())

    async def ask(self, kind: str, body: bytes, timeout_s: float) -> bytes:
        """PeerError."""
        connection = self.urgent.connection
        if connection is None or connection.closing:
            raise PeerError(f"member {self.id:x} is not connected")
        return await self._questions.ask(connection, kind, body, timeout_s)

    async def send_snapshot(self, message: Message, source: SnapshotSource) -> bool:
        """Whether it was delivered. A newer one takes the place of one that is under way."""
        if self._closing:
            return False
        before = self._sending_task
        if before is not None:
            before.cancel()
        self._sending = SnapshotSending(self._context, self.id, self.urls, message, source)
        task = self._sending_task = self._context.loop.create_task(self._sending.run())
        try:
            await asyncio.wait((task,))
            return not task.cancelled() and task.result()
        finally:
            if not task.done():  # it is the caller who was cancelled; the source may be closed when this returns
                task.cancel()
                await asyncio.wait((task,))
            if self._sending_task is task:
                self._sending = self._sending_task = None

    def hurry(self) -> None:
        """It has connected to us, so it can be connected to."""
        self.appends.hurry()
        self.urgent.hurry()

    def ping(self) -> None:
        """A sign of life to each connection, and the end of those that give none."""
        limits = self._context.limits
        for outgoing, silence_s in (
            (self.appends.outgoing, limits.silence_s),
            (self.urgent.outgoing, limits.silence_s),
            # Who writes a snapshot to a slow disk does not read its pings meanwhile.
            (self._sending.outgoing if self._sending else None, max(limits.silence_s, limits.snapshot_patience_s)),
        ):
            if outgoing is None:
                continue
            if outgoing.connection.is_silent(limits.ping_interval_s, silence_s):
                outgoing.connection.cut("it has gone silent")
            else:
                outgoing.ping()

    def _answered(self, kind: int, body: memoryview) -> None:
        if kind != Frame.ANSWER:
            raise WireError(f"a frame of kind {kind} in the direction of the dialer")
        self._questions.answered(decode_answer(body))

    # -- Watcher of both links --------------------------------------------------------------------------------
    def stands(self, link: Link) -> None:
        self._troubled.discard(link.stream)
        if not self._closing and self.appends.connection is not None and self.urgent.connection is not None:
            self._set_active(True)

    def fell(self, link: Link) -> None:
        if link is self.urgent:
            self._questions.fail(f"the connection to member {self.id:x} was lost")
        if self.is_active and not self._closing:
            self._set_active(False)

    def trouble(self, link: Link) -> None:
        if not self._troubled and not self._closing:
            # Not from within the node's own call of send.
            self._context.loop.call_soon(self._context.events.unreachable, self.id)
        self._troubled.add(link.stream)

    def fine(self, link: Link) -> None:
        self._troubled.discard(link.stream)

    def removed(self) -> None:
        if not self._closing:
            self._context.events.removed()

    def _set_active(self, active: bool) -> None:
        self.is_active = active
        self._context.events.active(self.id, time.monotonic() if active else None)
