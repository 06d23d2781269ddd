"""Hostile bytes on the peer port: whatever comes, members go on, memory stays bounded, and nobody is kept out."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import tracemalloc

import msgpack
import pytest

from fastkv.raft.codec import encode_message
from fastkv.server.peers.dial import Outgoing
from fastkv.server.peers.member import Member
from fastkv.server.peers.snapshot_send import SnapshotSending
from fastkv.server.peers.wire import MAGIC, VERSION, Frame, Hello, Stream, control, frame, hello
from node.peers_harness import CLUSTER, QUICK, Site, Source, append, heartbeat, run, running, snapshot, until
from support.transports import FakeTransport, feed

CASES = 1000  # a seed; the test names its seed
TIMEOUT_S = 10.0
PONG = frame(Frame.PONG)


def greeting(stream: int, sender: int = 2, receiver: int = 1, cluster: int = CLUSTER) -> bytes:
    return hello(Hello(VERSION, stream, cluster, sender, receiver, "3.7.3", ()))


def session(rng: random.Random) -> list[bytes]:
    """The frames of a member that behaves, or almost: frames of other streams are mixed in at times."""
    stream = rng.choice(list(Stream))
    message = frame(Frame.MESSAGE, encode_message(append(2, 1, rng.randrange(9), rng.randbytes(50), rng.randrange(3))))
    urgent = frame(Frame.MESSAGE, encode_message(heartbeat(2, 1, rng.randrange(9))))
    ask = control(Frame.ASK, rng.randrange(5), 1000, rng.choice(("x", "refuse", "wait")), rng.randbytes(9))
    begin = frame(Frame.SNAPSHOT, encode_message(snapshot(2, 1, rng.randrange(3))))
    data = frame(Frame.DATA, rng.randbytes(rng.randrange(300)))
    usual = {
        Stream.APPENDS: [message, frame(Frame.PING)],
        Stream.URGENT: [urgent, ask, frame(Frame.PING)],
        Stream.SNAPSHOTS: [data, data, control(Frame.END, rng.randrange(600))],
    }[stream]
    frames = [greeting(stream), *([begin] if stream is Stream.SNAPSHOTS else [])]
    frames += [rng.choice(usual) for _ in range(rng.randrange(6))]
    if rng.random() < 0.2:
        frames.insert(rng.randrange(len(frames) + 1), rng.choice((message, urgent, ask, begin, data, PONG)))
    return frames


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del changed[place : place + rng.randrange(1, 9)]
            case 3:
                changed[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xdd\xff\xff\xff"))
            case 4:
                changed += changed[place : place + 100]
    return bytes(changed)


def hostile(rng: random.Random) -> bytes:
    """Anything between noise and a session in which one frame is wrong inside."""
    match rng.randrange(4):
        case 0:
            return rng.choice((b"", MAGIC, b"\x16\x03\x01", b"GET ")) + rng.randbytes(rng.randrange(400))
        case 1:
            return mutated(rng, MAGIC + b"".join(session(rng)))
        case _:  # the lengths are right, so that the decoders see it
            frames = session(rng)
            place = rng.randrange(len(frames))
            body = mutated(rng, frames[place][5:])
            frames[place] = frame(Frame(rng.randint(1, 13)) if rng.random() < 0.1 else frames[place][4], body)
            return MAGIC + b"".join(frames)


@pytest.mark.parametrize("seed", range(6))
def test_hostile_bytes_end_their_own_connection_at_most(seed: int) -> None:
    """Each case is a whole connection, cut into random pieces, on a transport without a socket."""

    async def test() -> None:
        rng = random.Random(seed)
        one = Site(1, http=lambda method, target, body: (404, "text/plain", b""))
        admitted = 0
        async with running(one, introduce=False):
            gate = one.peers._gate
            assert gate is not None
            tracemalloc.start()
            try:
                for case in range(CASES):
                    inbound = gate._make("127.0.0.1", case)
                    gate._inbound[inbound] = None
                    transport = FakeTransport()
                    transport.protocol = inbound.connection
                    inbound.connection.connection_made(transport)
                    data = hostile(rng)
                    while data and not transport.ended:
                        size = rng.choice((1, 7, 100, 1000))
                        feed(inbound.connection, data[:size])
                        data = data[size:]
                    admitted += not inbound.is_stranger
                    if case % 16 == 0:
                        await asyncio.sleep(0)
                    if case == CASES // 10:
                        before = tracemalloc.get_traced_memory()[0]
                        tracemalloc.reset_peak()
                    inbound.connection.connection_lost(None)
                assert tracemalloc.get_traced_memory()[1] - before < 8 << 20
            finally:
                tracemalloc.stop()
            assert CASES // 10 < admitted < CASES, "the cases do not reach the decoders, or nothing is wrong in them"
            assert gate._inbound == {} and one.peers._inbound == {}
            two = Site(2)
            async with running(two, introduce=False):
                one.peers.set_members({2: [two.url]})
                two.peers.set_members({1: [one.url]})
                await until(lambda: one.connected(2) and two.connected(1), "members go on")
                one.node.hold.set()

    run(test())


@pytest.mark.parametrize("seed", range(3))
def test_a_hostile_acceptor_ends_its_own_connection_at_most(seed: int) -> None:
    """What is dialled may answer anything, to a hello, to questions, to a snapshot."""

    async def test() -> None:
        rng = random.Random(seed)
        one = Site(1)
        outcomes = {"refused": 0, "cut": 0, "went on": 0}
        async with running(one, introduce=False):
            context = one.peers._context
            assert context is not None
            for _ in range(CASES):
                member = Member(context, 2, (), known=True)
                stream = rng.choice(list(Stream))
                sending = SnapshotSending(context, 2, (), snapshot(1, 2), Source(10))
                receive = sending._receive if stream is Stream.SNAPSHOTS else member._answered
                outgoing = Outgoing(context, 2, stream, receive)
                transport = FakeTransport()
                transport.protocol = outgoing.connection
                outgoing.connection.connection_made(transport)
                frames = [
                    control(Frame.WELCOME, CLUSTER, 2, "3.7.3"),
                    *(rng.choice((
                        PONG,
                        control(Frame.ANSWER, rng.randrange(3), True, b"x"),
                        control(Frame.RESUME, rng.randrange(20)),
                        control(Frame.DONE, rng.random() < 0.5),
                    )) for _ in range(rng.randrange(4))),
                ]  # fmt: skip
                if rng.random() < 0.3:
                    frames[0] = control(Frame.REFUSE, rng.randrange(9), "no", CLUSTER, 2)
                if rng.random() < 0.7:
                    place = rng.randrange(len(frames))
                    frames[place] = frame(Frame(frames[place][4]), mutated(rng, frames[place][5:]))
                data = b"".join(frames)
                feed(outgoing.connection, data if rng.random() < 0.7 else mutated(rng, data))
                welcomed = outgoing._welcomed
                assert welcomed is not None
                refused = welcomed.done() and welcomed.exception() is not None
                outcomes["refused" if refused else "cut" if transport.ended else "went on"] += 1
                outgoing.connection.connection_lost(None)
                await member.close()
            assert min(outcomes.values()) > CASES // 20, outcomes

    run(test())


def test_hostile_bytes_on_real_sockets_leave_members_alone() -> None:
    async def test() -> None:
        rng = random.Random(77)
        one, two = Site(1), Site(2)
        async with running(one, two):
            for number in range(300):
                _, writer = await asyncio.open_connection("127.0.0.1", one.port)
                data = hostile(rng).replace(greeting(Stream.APPENDS)[5:], b"")
                writer.write(data[: rng.randrange(len(data) + 1)])
                (writer.close if rng.random() < 0.5 else writer.transport.abort)()
                if number % 50 == 0:
                    two.peers.send([append(2, 1, number)])
                    await until(lambda: append(2, 1, number) in one.node.messages, "heard")  # noqa: B023

    run(test())


@pytest.mark.parametrize(("stream", "frames", "why"), [
    (Stream.APPENDS, [frame(Frame.MESSAGE, encode_message(append(3, 1, 0)))], "APPEND of 3 to 1"),
    (Stream.APPENDS, [frame(Frame.MESSAGE, encode_message(append(2, 9, 0)))], "APPEND of 2 to 9"),
    (Stream.URGENT, [frame(Frame.MESSAGE, encode_message(snapshot(2, 1)))], "SNAPSHOT of 2 to 1"),
    (Stream.URGENT, [frame(Frame.MESSAGE, b"\xc1")], "raft message"),
    (Stream.APPENDS, [control(Frame.ASK, 1, 1, "x", b"")], "a frame of kind 7"),
    (Stream.URGENT, [frame(Frame.DATA, b"")], "a frame of kind 11"),
    (Stream.URGENT, [frame(99, b"")], "a frame of kind 99"),  # type: ignore[arg-type]
    (Stream.URGENT, [frame(Frame.PING, b"x")], "bytes in an empty frame"),
    (Stream.URGENT, [greeting(Stream.URGENT)], "a frame of kind 1"),
    (Stream.SNAPSHOTS, [frame(Frame.DATA, b"x")], "a frame of kind 11"),
    (Stream.SNAPSHOTS, [frame(Frame.SNAPSHOT, encode_message(heartbeat(2, 1, 1)))], "HEARTBEAT of 2 to 1"),
    (Stream.SNAPSHOTS, [frame(Frame.SNAPSHOT, encode_message(snapshot(3, 1)))], "SNAPSHOT of 3 to 1"),
    (Stream.SNAPSHOTS, [frame(Frame.SNAPSHOT, encode_message(snapshot(2, 1)))] * 2, "a frame of kind 9"),
])  # fmt: skip
def test_what_is_wrong_on_a_stream_is_named_and_ends_it(stream: Stream, frames: list[bytes], why: str) -> None:
    async def test() -> None:
        one = Site(1)
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(MAGIC + greeting(stream) + b"".join(frames))
            await until(lambda: one.log.has("it sent what it must not", why), f"said: {why}")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                async with asyncio.timeout(TIMEOUT_S):
                    await reader.readexactly(1 << 20)
            writer.close()
            assert one.node.messages == []

    run(test())


def test_a_first_frame_that_is_no_hello_and_a_large_one_are_refused() -> None:
    async def test() -> None:
        one = Site(1)
        async with running(one, introduce=False):
            for data, why in (
                (frame(Frame.PING), "a frame of kind 4 instead of a hello"),
                (frame(Frame.HELLO, bytes(20 << 10)), "a frame of 20481 bytes, the limit is 16384"),
                (control(Frame.HELLO, VERSION, 9, CLUSTER, 2, 1, "3.7.3", []), "unknown stream 9"),
                (control(Frame.HELLO, VERSION, 1, CLUSTER, 0, 1, "3.7.3", []), "it says that it is member 0"),
            ):
                _, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(MAGIC + data)
                await until(lambda: one.log.has(why), why)  # noqa: B023
                writer.close()

    run(test())


def test_slow_senders_are_cut() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, handshake_timeout_s=0.3, frame_timeout_s=0.3, ping_interval_s=0.05)
        one = Site(1, limits)
        async with running(one, introduce=False):
            for start in (
                b"",
                MAGIC[:3],
                MAGIC + greeting(1)[:9],
                MAGIC + greeting(1) + frame(Frame.MESSAGE, b"x" * 9)[:7],
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                ended = asyncio.ensure_future(reader.read())
                writer.write(start)
                async with asyncio.timeout(TIMEOUT_S):
                    await asyncio.wait((ended,))
                writer.close()
            assert one.log.has("it did not say who it is") and one.log.has("it takes too long over one frame")

    run(test())


def test_strangers_are_bounded_and_keep_no_member_out() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, strangers_max=8, handshake_timeout_s=60.0)
        one, two = Site(1, limits), Site(2)
        async with running(one, introduce=False):
            held = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(40)]
            gate = one.peers._gate
            assert gate is not None
            await until(lambda: len(gate._inbound) == 8 and not gate._opening, "the oldest gave way")
            async with running(two, introduce=False):
                two.peers.set_members({1: [one.url]})
                await until(lambda: two.connected(1), "a member comes in")
                assert len(gate._inbound) <= 8 + 2
            for _, writer in held:
                writer.close()

    run(test())


def test_who_asks_and_never_takes_the_answers_is_cut() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, asks_max=64)
        one = Site(1, limits)
        async with running(one, introduce=False):
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.transport.pause_reading()
            writer.write(MAGIC + greeting(Stream.URGENT))
            number = 0
            while not one.log.has("it does not take in what it asked for") and number < 5000:
                number += 1
                writer.write(control(Frame.ASK, number, 1000, "large", b"1000000"))
                await asyncio.sleep(0)
            assert one.log.has("it does not take in what it asked for")
            writer.close()

    run(test())


def test_a_list_in_a_list_in_a_frame_takes_no_memory() -> None:
    async def test() -> None:
        one = Site(1)
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(MAGIC + greeting(Stream.APPENDS))
            assert (await asyncio.wait_for(reader.read(1000), TIMEOUT_S))[4] == Frame.WELCOME
            bomb = (b"\xdd" + (1 << 20).to_bytes(4, "big")) * 1000
            tracemalloc.start()
            try:
                writer.write(frame(Frame.MESSAGE, bomb.ljust(2 << 20, b"\x01")))
                await until(lambda: one.log.has("it sent what it must not"), "cut")
                assert tracemalloc.get_traced_memory()[1] < 32 << 20
            finally:
                tracemalloc.stop()
            reader.feed_eof()
            writer.close()

    run(test())


def test_msgpack_that_is_no_message_is_refused_whatever_it_is() -> None:
    for value in ({}, [], {"a": 1}, "x", b"x", 1.5, None, [[[[]]]], msgpack.Timestamp(1)):
        body = msgpack.packb(value)

        async def test(body: bytes = body) -> None:
            one = Site(1)
            async with running(one, introduce=False):
                _, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(MAGIC + greeting(Stream.APPENDS) + frame(Frame.MESSAGE, body))
                await until(lambda: one.log.has("it sent what it must not: raft message"), "cut")
                writer.close()

        run(test())
