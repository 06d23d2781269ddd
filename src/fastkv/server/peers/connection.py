"""
One connection: bytes to frames, frames to bytes. It knows no kind of frame and no member.

    socket -recv_into-> buffer -> owner.frames([view of each whole frame])        one call for all that one read brought
    push(frame) ... -> queue -> one write for all that waits; held back while the socket is full

Invariants:
* The buffer grows only when it is full of bytes of one frame, to four times its size at most: memory follows what was
  received, never what a length claims.
* The views of `frames` are of this buffer: they count until the call returns.
* The owner is told `lost` exactly once, last, if and only if it was told `opened`.

Thread safety: the event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from fastkv.server.peers.wire import LENGTH, MAGIC

BUFFER_BYTES = 64 << 10
BUFFER_KEPT_BYTES = 4 << 20  # a larger one, of a large frame, is given back
WRITE_BYTES = 256 << 10  # of small frames joined for one write
LARGE_BYTES = 64 << 10  # from here on a system call of its own costs less than the copy
SOCKET_BEHIND_BYTES = 1 << 20  # the transport's own buffer; beyond it what is pushed waits in the queue


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def opened(self, connection: Connection) -> None: ...
    def foreign(self, connection: Connection, data: bytes) -> None:
        """It began with something else than MAGIC; all its bytes come here as they are. Only of accepted ones."""

    def frames(self, connection: Connection, frames: list[memoryview]) -> None:
        """Each is kind and body."""

    def lost(self, connection: Connection, reason: str | Exception | None) -> None:
        """str: it was cut for what it sent or did not send. None: closed in an orderly way."""


class Connection(asyncio.BufferedProtocol):
    """The protocol of an asyncio transport, TCP or TLS."""

    def __init__(
        self,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        frame_bytes_max: int,
        *,
        accepted: bool,
        behind_bytes: int = SOCKET_BEHIND_BYTES,
    ) -> None:
        self.owner = owner
        self.frame_bytes_max = frame_bytes_max
        self.transport: asyncio.Transport | None = None
        self.quiet_turns = 0  # how often somebody has looked since the last sign of life
        self.frame_since: float | None = None  # when the frame began of which only a part has come
        self.closing = False
        self._loop = loop
        self._behind_bytes = behind_bytes
        self._buffer = bytearray(BUFFER_BYTES)
        self._begin = self._end = 0
        self._expects_magic = accepted
        self._foreign = False
        self._reason: str | None = None
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._writable = True
        self._flush_due = False
        self._drained: asyncio.Future[None] | None = None

    # -- the transport's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=self._behind_bytes)
        self.owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._queue.clear()
        self._queue_bytes = 0
        self._wake_drained()
        self.owner.lost(self, self._reason or exc)
        self._buffer = bytearray(1)  # owner and connection name each other: this must not wait for the collector
        self._begin = self._end = 0

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self.quiet_turns = 0
        if self.closing:
            self._begin = self._end = 0
            return
        if self._expects_magic and not self._take_magic():
            return
        frames, error = self._split()
        if frames:
            self.owner.frames(self, frames)
        if error:
            self.cut(error)
        self._make_room()

    # -- reading ----------------------------------------------------------------------------------------------
    def unread(self) -> bytes:
        """The bytes of the frame that is not whole yet."""
        return bytes(self._buffer[self._begin : self._end])

    def _take_magic(self) -> bool:
        """Whether frames may follow already."""
        first = bytes(self._buffer[: self._end])
        if self._foreign or not MAGIC.startswith(first[: len(MAGIC)]):
            self._foreign = True
            self._end = 0
            self.owner.foreign(self, first)
            return False
        if len(first) < len(MAGIC):
            return False
        self._begin = len(MAGIC)
        self._expects_magic = False
        return True

    def _split(self) -> tuple[list[memoryview], str]:
        buffer, begin, end = self._buffer, self._begin, self._end
        view = memoryview(buffer)
        frames: list[memoryview] = []
        error = ""
        while end - begin >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, begin)
            if not 1 <= length <= self.frame_bytes_max:
                error = f"a frame of {length} bytes, the limit is {self.frame_bytes_max}"
                break
            stop = begin + LENGTH.size + length
            if stop > end:
                break
            frames.append(view[begin + LENGTH.size : stop])
            begin = stop
        if begin != self._begin:
            self.frame_since = None
        self._begin = begin
        return frames, error

    def _make_room(self) -> None:
        """At least a byte of room, and enough for the next frame once that much of it is there to be believed."""
        begin, end, size = self._begin, self._end, len(self._buffer)
        have = end - begin
        if not have:
            self._begin = self._end = 0
            if size > BUFFER_KEPT_BYTES:
                self._buffer = bytearray(BUFFER_BYTES)
            return
        if self.frame_since is None:
            self.frame_since = self._loop.time()
        needed = LENGTH.size + (LENGTH.unpack_from(self._buffer, begin)[0] if have >= LENGTH.size else 0)
        if begin + needed <= size and end < size:
            return
        if have == size:
            grown = bytearray(min(max(needed, size + 1), 4 * size))
            grown[:have] = self._buffer
            self._buffer = grown
        elif begin:
            self._buffer[:have] = self._buffer[begin:end]
        self._begin, self._end = 0, have

    # -- writing ----------------------------------------------------------------------------------------------
    @property
    def waiting_frames(self) -> int:
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """What was pushed and the operating system has not taken yet."""
        if self.transport is None:
            return self._queue_bytes
        return self._queue_bytes + self.transport.get_write_buffer_size()

    def push(self, frame: bytes) -> None:
        """Queue it; `flush` or `flush_soon` sends it."""
        self._queue.append(frame)
        self._queue_bytes += len(frame)

    def flush_soon(self) -> None:
        """At the end of this turn of the loop, together with what else is pushed in it."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        queue = self._queue
        while queue and self._writable and not self.closing:
            assert self.transport is not None
            first = queue.popleft()
            size = len(first)
            if not queue or size >= LARGE_BYTES:
                self.transport.write(first)
            else:
                parts = [first]
                while queue and size < WRITE_BYTES and len(queue[0]) < LARGE_BYTES:
                    parts.append(queue.popleft())
                    size += len(parts[-1])
                self.transport.write(b"".join(parts))
            self._queue_bytes -= size
        if self._drained is not None and self._writable:
            self._wake_drained()

    async def drained(self) -> None:
        """Until more may be pushed without piling up. Returns also when the connection ends."""
        if self.closing or (self._writable and not self._queue):
            return
        if self._drained is None:
            self._drained = self._loop.create_future()
        await asyncio.shield(self._drained)

    def _wake_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def pause(self) -> None:
        """Read no more for now."""
        if self.transport is not None and not self.closing:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.closing:
            self.transport.resume_reading()

    def is_silent(self, interval_s: float, silence_s: float) -> bool:
        """
        To be asked every interval_s: whether nothing has come for silence_s. Turns are counted, not time: a process
        that was stopped, or held up, must not take its own absence for the others'.
        """
        self.quiet_turns += 1
        return self.quiet_turns * interval_s > silence_s

    # -- the end ----------------------------------------------------------------------------------------------
    def cut(self, reason: str) -> None:
        """End it now, whatever waits; `lost` says why."""
        if self._reason is None and not self.closing:
            self._reason = reason
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """End it when what was pushed is sent."""
        self.flush()
        self.closing = True
        if self.transport is not None:
            self.transport.close()
