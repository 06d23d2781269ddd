"""
A snapshot to another member: on a connection of its own, at a bounded rate, resumed where an interruption left it.

    SNAPSHOT message -->            what it is
          <-- RESUME offset         so much of it is there already; or DONE false: not wanted
    DATA ... END size -->
          <-- DONE delivered        the other node has verified it and taken it, or has not

Invariants:
* Bytes are read in a thread and wait in memory only a few chunks at a time.
* It ends: with the other side's answer, or when no byte has got through for limits.snapshot_patience_s.
"""

from __future__ import annotations

import asyncio
import itertools

from fastkv.errors import Error
from fastkv.raft import Message
from fastkv.raft.codec import encode_message
from fastkv.server.peers.context import Context
from fastkv.server.peers.dial import ConnectError, Outgoing
from fastkv.server.peers.reasons import describe
from fastkv.server.peers.tasks import in_thread
from fastkv.server.peers.types import SnapshotSource
from fastkv.server.peers.wire import Frame, Stream, WireError, control, decode_flag, decode_number, frame

READ_CHUNKS = 8  # read from the source at once: each read is a hand-over to a thread and back


class SnapshotSending:
    """One snapshot to one member. `outgoing` is the connection that carries it now, or None."""

    def __init__(
        self, context: Context, member: int, urls: tuple[str, ...], message: Message, source: SnapshotSource
    ) -> None:
        self.outgoing: Outgoing | None = None
        self._context = context
        self._member = member
        self._urls = urls
        self._message = message
        self._source = source
        self._size = source.size
        self._furthest = -1  # the offset up to which bytes have gone; an attempt that gets no further is no progress
        self._progress_at = context.loop.time()
        self._resume: asyncio.Future[int] = context.loop.create_future()
        self._done: asyncio.Future[bool] = context.loop.create_future()

    async def run(self) -> bool:
        """Whether it was delivered."""
        loop, limits, log = self._context.loop, self._context.limits, self._context.log
        about = {"member_id": f"{self._member:x}", "bytes": self._size}
        for url in itertools.cycle(self._urls):
            self._resume, self._done = loop.create_future(), loop.create_future()
            outgoing = Outgoing(self._context, self._member, Stream.SNAPSHOTS, self._receive)
            try:
                await outgoing.connect(url, limits.urgent_bytes_max)
                self.outgoing = outgoing
                log.info("sending a snapshot", url=url, **about)
                delivered = await self._stream(outgoing)
                log.info("sent a snapshot" if delivered else "a snapshot was not taken", url=url, **about)
                return delivered
            except ConnectError as error:
                log.warn("a snapshot was interrupted", (self._member, str(error)), url=url, reason=str(error), **about)
                if error.removed:
                    self._context.events.removed()
            except (OSError, Error) as error:
                log.warn("cannot read the snapshot to be sent", self._member, reason=describe(error), **about)
                return False
            finally:
                self.outgoing = None
                outgoing.connection.cut("the snapshot has ended")
            if loop.time() - self._progress_at > limits.snapshot_patience_s:
                log.warn("gave up sending a snapshot", self._member, url=url, **about)
                return False
            await asyncio.sleep(limits.backoff_min_s * (1 + self._context.rng.random()))
        return False

    async def _stream(self, outgoing: Outgoing) -> bool:
        """Whether it was delivered; ConnectError: to be gone on with on another connection."""
        limits, connection = self._context.limits, outgoing.connection
        resume, done = self._resume, self._done
        connection.push(frame(Frame.SNAPSHOT, encode_message(self._message)))
        connection.flush()
        await asyncio.wait(
            (resume, done, outgoing.ended), timeout=limits.snapshot_patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if done.done():
            return done.result()
        if not resume.done():
            raise ConnectError(outgoing.ended.result() if outgoing.ended.done() else "it did not answer in time")
        if not await self._send_bytes(outgoing, resume.result()):
            return done.result()
        connection.push(control(Frame.END, self._size))
        connection.flush()
        # The other side verifies every byte and builds its state now. Pings tell whether it still lives.
        await asyncio.wait((done, outgoing.ended), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ConnectError(outgoing.ended.result())
        return done.result()

    async def _send_bytes(self, outgoing: Outgoing, offset: int) -> bool:
        """False: the other side has decided before it had them all."""
        loop, limits, connection = self._context.loop, self._context.limits, outgoing.connection
        if offset > self._size:
            raise ConnectError(f"it has {offset} bytes of a snapshot of {self._size}")
        if offset:
            self._context.log.info("resuming a snapshot", member_id=f"{self._member:x}", offset=offset)
        self._went_to(offset)
        began_at, first = loop.time(), offset
        chunk_bytes = limits.snapshot_chunk_bytes
        while offset < self._size:
            data = await in_thread(self._source.read, offset, READ_CHUNKS * chunk_bytes)
            if not data:
                raise OSError(f"the snapshot ends at {offset} of {self._size} bytes")
            for start in range(0, len(data), chunk_bytes):
                chunk = data[start : start + chunk_bytes]
                connection.push(frame(Frame.DATA, chunk))
                connection.flush()
                await self._drained(outgoing)
                if self._done.done():
                    return False
                offset += len(chunk)
                self._went_to(offset)
                ahead_s = 0.0
                if limits.snapshot_bytes_s:
                    ahead_s = began_at + (offset - first) / limits.snapshot_bytes_s - loop.time()
                await asyncio.sleep(max(ahead_s, 0.0))  # also without a rate: the loop has more urgent things to do
        return True

    def _went_to(self, offset: int) -> None:
        if offset > self._furthest:
            self._furthest, self._progress_at = offset, self._context.loop.time()

    async def _drained(self, outgoing: Outgoing) -> None:
        try:
            async with asyncio.timeout(self._context.limits.snapshot_patience_s):
                await outgoing.connection.drained()
        except TimeoutError:
            raise ConnectError("it takes in nothing more") from None
        if outgoing.ended.done():
            raise ConnectError(outgoing.ended.result())

    def _receive(self, kind: int, body: memoryview) -> None:
        if kind == Frame.RESUME and not self._resume.done() and not self._done.done():
            self._resume.set_result(decode_number(body))
        elif kind == Frame.DONE and not self._done.done():
            self._done.set_result(decode_flag(body))
        else:
            raise WireError(f"a frame of kind {kind} at this point of a snapshot's stream")
