"""One connection by itself: frames for every way of cutting the bytes, memory, the queue. No socket, no time."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Coroutine
from typing import Any

import pytest

from fastkv.server.peers.connection import BUFFER_BYTES, BUFFER_KEPT_BYTES, SOCKET_BEHIND_BYTES, Connection
from fastkv.server.peers.wire import LENGTH, MAGIC, Frame, frame
from support.transports import FakeTransport, feed

LIMIT = 1 << 20


class Recorder:
    """An Owner that keeps copies."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.calls = 0
        self.raw = b""
        self.reasons: list[str | Exception | None] = []

    def opened(self, connection: Connection) -> None: ...

    def foreign(self, connection: Connection, data: bytes) -> None:
        self.raw += data

    def frames(self, connection: Connection, frames: list[memoryview]) -> None:
        self.calls += 1
        self.received += [bytes(view) for view in frames]

    def lost(self, connection: Connection, reason: str | Exception | None) -> None:
        self.reasons.append(reason)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def connection(owner: Recorder, accepted: bool = False, limit: int = LIMIT) -> tuple[Connection, FakeTransport]:
    made = Connection(owner, asyncio.get_running_loop(), limit, accepted=accepted)
    transport = FakeTransport()
    transport.protocol = made
    made.connection_made(transport)
    return made, transport


FRAMES = [frame(Frame.PING), frame(Frame.MESSAGE, b"a"), frame(Frame.ASK, bytes(range(40))), frame(Frame.PONG)]


def test_frames_come_out_whole_however_the_bytes_are_cut() -> None:
    async def test() -> None:
        data = MAGIC + b"".join(FRAMES)
        bodies = [whole[LENGTH.size :] for whole in FRAMES]
        for first in range(len(data) + 1):
            for second in range(first, len(data) + 1):
                owner = Recorder()
                target, _ = connection(owner, accepted=True)
                for piece in (data[:first], data[first:second], data[second:]):
                    feed(target, piece)
                assert owner.received == bodies and owner.raw == b"" and target.unread() == b""
        owner = Recorder()
        target, _ = connection(owner, accepted=True)
        for number in data:
            feed(target, bytes((number,)))
        assert owner.received == bodies and target.frame_since is None

    run(test())


@pytest.mark.parametrize("seed", range(40))
def test_frames_of_all_sizes_in_pieces_of_all_sizes(seed: int) -> None:
    async def test() -> None:
        rng = random.Random(seed)
        sizes = [rng.choice((0, 1, 3, 100, 5000, BUFFER_BYTES - 5, BUFFER_BYTES, 300_000)) for _ in range(30)]
        bodies = [rng.randbytes(size) for size in sizes]
        data = b"".join(frame(Frame.DATA, body) for body in bodies)
        owner = Recorder()
        target, _ = connection(owner)
        start = 0
        while start < len(data):
            size = rng.choice((1, 2, 4, 5, 6, 1000, 60_000, 65_536, 500_000))
            feed(target, data[start : start + size])
            start += size
        assert owner.received == [bytes((Frame.DATA,)) + body for body in bodies]

    run(test())


def test_all_that_one_read_brings_is_one_call() -> None:
    async def test() -> None:
        owner = Recorder()
        target, _ = connection(owner)
        feed(target, frame(Frame.MESSAGE, b"x" * 20) * 1000)
        assert owner.calls == 1 and len(owner.received) == 1000

    run(test())


@pytest.mark.parametrize("length", [0, LIMIT + 1, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_cuts_the_connection(length: int) -> None:
    async def test() -> None:
        owner = Recorder()
        target, transport = connection(owner)
        feed(target, FRAMES[0] + LENGTH.pack(length) + b"abc")
        assert transport.ended == "aborted" and len(owner.received) == 1
        feed(target, FRAMES[1])
        assert len(owner.received) == 1, "what comes behind is not looked at"
        target.connection_lost(None)
        assert owner.reasons == [f"a frame of {length} bytes, the limit is {LIMIT}"]

    run(test())


def test_memory_follows_what_came_not_what_was_promised() -> None:
    async def test() -> None:
        tracemalloc.start()
        try:
            owner = Recorder()
            target, _ = connection(owner, limit=1 << 30)
            feed(target, LENGTH.pack(1 << 30))
            for sent in (1 << 10, 1 << 16, 1 << 18, 1 << 20):
                feed(target, bytes(sent))
                tracemalloc.reset_peak()
                assert tracemalloc.get_traced_memory()[0] < 5 * 2 * sent + 4 * BUFFER_BYTES
        finally:
            tracemalloc.stop()

    run(test())


def test_a_large_buffer_is_given_back() -> None:
    async def test() -> None:
        owner = Recorder()
        target, _ = connection(owner, limit=1 << 30)
        feed(target, frame(Frame.DATA, bytes(2 * BUFFER_KEPT_BYTES)))
        assert len(owner.received) == 1
        assert len(target.get_buffer(-1)) == BUFFER_BYTES

    run(test())


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x00", b"\xff", MAGIC[:-1] + b"!", b"\x00" * 100]
)
def test_what_does_not_begin_with_the_magic_comes_as_it_is(data: bytes) -> None:
    async def test() -> None:
        for cut in range(len(data) + 1):
            owner = Recorder()
            target, _ = connection(owner, accepted=True)
            feed(target, data[:cut])
            feed(target, data[cut:])
            if MAGIC.startswith(data):
                assert owner.raw == b""
            else:
                assert owner.raw == data
            assert owner.received == []

    run(test())


def test_silence_is_counted_in_turns_so_that_a_stopped_process_blames_nobody() -> None:
    async def test() -> None:
        target, _ = connection(Recorder())
        for _ in range(3):
            assert [target.is_silent(0.25, 1.0) for _ in range(5)] == [False] * 4 + [True]
            feed(target, b"\x01")

    run(test())


def test_what_is_pushed_is_one_write() -> None:
    async def test() -> None:
        target, transport = connection(Recorder())
        for whole in FRAMES:
            target.push(whole)
            target.flush_soon()
        assert transport.written == []
        await asyncio.sleep(0)
        assert transport.written == [b"".join(FRAMES)] and target.waiting_bytes == 0

    run(test())


def test_what_the_socket_does_not_take_waits_in_order() -> None:
    async def test() -> None:
        target, transport = connection(Recorder())
        transport.room = 0
        bodies = [bytes((number,)) * 300_000 for number in range(40)]
        for body in bodies:
            target.push(body)
            target.flush()
        total = 40 * 300_000
        assert target.waiting_bytes == total
        assert transport.behind <= SOCKET_BEHIND_BYTES + 300_000 and target.waiting_frames > 30
        drained = asyncio.ensure_future(target.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        while transport.behind:
            transport.room, transport.behind = 1 << 20, 0
            target.resume_writing()
        assert b"".join(transport.written) == b"".join(bodies)
        await drained

    run(test())


def test_closing_sends_what_was_pushed_and_cutting_does_not() -> None:
    async def test() -> None:
        target, transport = connection(Recorder())
        target.push(b"last words")
        target.close()
        assert transport.written == [b"last words"] and transport.ended == "closed"
        owner = Recorder()
        target, transport = connection(owner)
        transport.room = 0
        target.push(b"x" * (3 << 20))
        target.flush()
        target.push(b"last words")
        waiting = asyncio.ensure_future(target.drained())
        await asyncio.sleep(0)
        target.cut("because")
        target.cut("another reason")
        target.connection_lost(OSError("broken"))
        await waiting
        assert transport.ended == "aborted" and owner.reasons == ["because"] and target.waiting_frames == 0

    run(test())
