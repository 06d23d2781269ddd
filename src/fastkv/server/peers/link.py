"""
One stream to one member, kept up: connects, connects again, and carries what is sent while it stands.

    attempt --fails--> pause, doubling up to a bound --+          the member itself calls: the pause ends
       ^  +--stands--> send ... --ends-----------------+--> at once, if it lasted

Invariants:
* What is sent while no connection stands, or while the queue is full, is dropped; the member is then reported in
  trouble on this stream, once, until something gets through again.
* No frame outlives its connection: one that may or may not have arrived is never sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Protocol

from fastkv.server.peers.connection import Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.dial import ConnectError, Outgoing, Receive
from fastkv.server.peers.wire import LENGTH, Stream


class Watcher(Protocol):
    """Who is told how the stream fares."""

    def stands(self, link: Link) -> None: ...
    def fell(self, link: Link) -> None: ...
    def trouble(self, link: Link) -> None:
        """Something was lost, or may have been: first time since `stands` or `fine`."""

    def fine(self, link: Link) -> None: ...
    def removed(self) -> None: ...


class Link:
    """`connection` is what stands now, or None."""

    def __init__(
        self,
        context: Context,
        member: int,
        stream: Stream,
        urls: tuple[str, ...],
        frame_bytes_max: int,
        watcher: Watcher,
        receive: Receive,
    ) -> None:
        self.stream = stream
        limits = context.limits
        largest = limits.message_bytes_max if stream is Stream.APPENDS else limits.urgent_bytes_max
        self.send_bytes_max = largest + LENGTH.size
        self.connection: Connection | None = None
        self.outgoing: Outgoing | None = None
        self._context = context
        self._member = member
        self._urls = urls
        self._frame_bytes_max = frame_bytes_max
        self._watcher = watcher
        self._receive = receive
        self._troubled = False
        self._hurry = asyncio.Event()
        self._task = context.loop.create_task(self._keep())

    def send(self, frame: bytes) -> None:
        """Only if `has_room`."""
        connection = self.connection
        assert connection is not None
        connection.push(frame)
        if self._troubled:
            self._troubled = False
            self._watcher.fine(self)

    def has_room(self) -> bool:
        """Whether a frame can be sent now; if not, it counts as dropped."""
        connection, limits = self.connection, self._context.limits
        if (
            connection is not None
            and not connection.closing
            and connection.waiting_frames < limits.queue_messages_max
            and connection.waiting_bytes < limits.queue_bytes_max
        ):
            return True
        self.dropped()
        return False

    def hurry(self) -> None:
        """The member has just been heard of: pause no longer."""
        self._hurry.set()

    def dropped(self) -> None:
        if not self._troubled:
            self._troubled = True
            self._watcher.trouble(self)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _keep(self) -> None:
        limits, loop = self._context.limits, self._context.loop
        pause_s = 0.0
        for url in itertools.cycle(self._urls):
            outgoing = Outgoing(self._context, self._member, self.stream, self._receive)
            try:
                await outgoing.connect(url, self._frame_bytes_max)
            except ConnectError as error:
                self._explain(url, error)
            else:
                since = loop.time()
                why = await self._stand(outgoing, url)
                self._context.log.warn(
                    "lost the connection to a member", (self._member, self.stream), member_id=f"{self._member:x}",
                    url=url, stream=self.stream.name.lower(), reason=why,
                )  # fmt: skip
                if loop.time() - since >= limits.backoff_max_s:
                    pause_s = 0.0
                    continue
            pause_s = min(max(2 * pause_s, limits.backoff_min_s), limits.backoff_max_s)
            await self._pause(pause_s * (0.5 + self._context.rng.random() / 2))

    async def _pause(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _stand(self, outgoing: Outgoing, url: str) -> str:
        self.outgoing, self.connection = outgoing, outgoing.connection
        self._context.log.info(
            "connected to a member", member_id=f"{self._member:x}", url=url, stream=self.stream.name.lower()
        )
        self._troubled = False
        self._watcher.stands(self)
        try:
            return await asyncio.shield(outgoing.ended)
        finally:
            outgoing.connection.cut("this member closes")
            self.outgoing = self.connection = None
            self._watcher.fell(self)
            self.dropped()

    def _explain(self, url: str, error: ConnectError) -> None:
        self._context.log.warn(
            "cannot connect to a member", (self._member, str(error)), member_id=f"{self._member:x}", url=url,
            reason=str(error),
        )  # fmt: skip
        if error.removed:
            self._watcher.removed()
