"""Snapshots between members: whole, resumed, refused, at a rate, and gone with whoever sent them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading

from fastkv.errors import QuotaError
from fastkv.server.peers import SnapshotSink
from node.peers_harness import (
    QUICK,
    FakeNode,
    Proxy,
    Sink,
    Site,
    Source,
    append,
    heartbeat,
    run,
    running,
    snapshot,
    until,
)

MIB = 1 << 20


def test_a_snapshot_arrives_whole_and_nothing_waits_for_it() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        source = Source(9 * MIB + 5)
        async with running(one, two):
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), source))
            one.peers.send([heartbeat(1, 2, 1), append(1, 2, 1)])
            assert await sending
            ((message, sink),) = two.node.finished
            assert message == snapshot(1, 2) and isinstance(sink, Sink)
            assert sink.data == source.data and not sink.aborted
            assert len(two.node.messages) == 2, "the SNAPSHOT message itself is the node's to step"
            assert one.node.activity == [(2, True)], "its connection is not one of the two that stand"

    run(test())


def test_an_empty_snapshot_arrives() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two):
            assert await one.peers.send_snapshot(snapshot(1, 2), Source(0))
            assert len(two.node.finished) == 1

    run(test())


def test_an_interrupted_snapshot_is_resumed_where_it_was() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        source = Source(12 * MIB)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            for cut_at in (4 * MIB, 3 * MIB):
                sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), source))
                proxy.relayed_bytes, proxy.cut_after_bytes = 0, cut_at
                await until(lambda: proxy.cut_after_bytes == 0, "cut")
                if cut_at == 3 * MIB:
                    break
                assert await sending
                source.reads.clear()
                two.node.finished.clear()
            assert await sending
            assert len(two.node.sinks) == 2, "each went to one sink"
            ((_, sink),) = two.node.finished
            assert isinstance(sink, Sink) and sink.data == source.data
            assert one.log.has("info resuming a snapshot")
            again = [offset for before, offset in zip(source.reads, source.reads[1:], strict=False) if offset <= before]
            assert len(again) == 1 and again[0] > 0, "read on from where the receiver was"

    run(test())


def test_another_snapshot_replaces_what_has_come_of_one() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2, index=100), Source(12 * MIB)))
            proxy.relayed_bytes, proxy.cut_after_bytes = 0, 4 * MIB
            await until(lambda: proxy.cut_after_bytes == 0, "cut")
            newer = Source(2 * MIB)
            delivered = await one.peers.send_snapshot(snapshot(1, 2, index=200), newer)
            assert delivered and not await sending, "the first gives way"
            first, second = two.node.sinks
            assert first.aborted and not second.aborted and second.data == newer.data

    run(test())


def test_a_snapshot_that_is_not_wanted_or_not_used_was_not_delivered() -> None:
    class Disappointed(FakeNode):
        async def snapshot_done(self, message: object, sink: SnapshotSink) -> bool:
            return False

    async def test() -> None:
        one, two, three = Site(1), Site(2), Site(3, node=Disappointed())
        two.node.wants_snapshots = False
        async with running(one, two, three):
            assert not await one.peers.send_snapshot(snapshot(1, 2), Source(MIB))
            assert not await one.peers.send_snapshot(snapshot(1, 3), Source(MIB))
            assert not await one.peers.send_snapshot(snapshot(1, 4), Source(MIB)), "nobody is member 4"
            assert two.node.sinks == [] and two.node.finished == []

    run(test())


def test_a_disk_that_refuses_the_snapshot_ends_it() -> None:
    class FullSink(Sink):
        def write(self, data: bytes) -> None:
            if self.size > MIB:
                raise OSError(28, "No space left on device")
            super().write(data)

    class FullNode(FakeNode):
        def make_sink(self) -> Sink:
            return FullSink()

    class NoDiskNode(FakeNode):
        def make_sink(self) -> Sink:
            raise QuotaError("no space left on device")

    class FailingSource(Source):
        def read(self, offset: int, length: int) -> bytes:
            raise OSError(5, "Input/output error")

    async def test() -> None:
        one, two, three = Site(1), Site(2, node=FullNode()), Site(3, node=NoDiskNode())
        async with running(one, two, three):
            assert not await one.peers.send_snapshot(snapshot(1, 2), Source(6 * MIB))
            assert two.log.has("a snapshot that arrived is of no use", "no space left on device")
            assert two.node.sinks[0].aborted and two.node.finished == []
            assert not await one.peers.send_snapshot(snapshot(1, 3), Source(MIB))
            assert three.log.has("cannot take in a snapshot", "no space left on device")
            assert not await one.peers.send_snapshot(snapshot(1, 2), FailingSource(MIB))
            assert one.log.has("cannot read the snapshot", "input/output error")

    run(test())


def test_a_snapshot_keeps_to_its_rate() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, snapshot_bytes_s=8 * MIB)
        one, two = Site(1, limits), Site(2)
        async with running(one, two):
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await one.peers.send_snapshot(snapshot(1, 2), Source(4 * MIB))
            assert loop.time() - began >= 0.5

    run(test())


def test_a_slow_disk_holds_the_sender_back() -> None:
    """While the sink does not take anything, what waits for it stays bounded."""
    opened = threading.Event()

    class SlowSink(Sink):
        def write(self, data: bytes) -> None:
            assert opened.wait(60)
            super().write(data)

    class SlowNode(FakeNode):
        def make_sink(self) -> Sink:
            return SlowSink()

    async def test() -> None:
        limits = dataclasses.replace(QUICK, snapshot_bytes_s=0)
        one, two = Site(1, limits), Site(2, node=SlowNode())
        source = Source(96 * MIB)
        async with running(one, two):
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), source))
            try:
                await until(lambda: two.node.sinks and source.reads, "begun")
                loop, reads, still_since = asyncio.get_running_loop(), -1, 0.0
                while True:  # until nothing has moved for a while
                    if reads != len(source.reads):
                        reads, still_since = len(source.reads), loop.time()
                    if loop.time() - still_since > 0.5:
                        break
                    await asyncio.sleep(0.01)
                assert source.reads[-1] < 48 * MIB
            finally:
                opened.set()
            assert await sending
            assert two.node.sinks[0].data == source.data

    run(test())


def test_an_abandoned_snapshot_is_aborted_on_both_sides() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, snapshot_patience_s=0.4, snapshot_bytes_s=4 * MIB)
        one, two = Site(1, limits), Site(2, limits)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), Source(32 * MIB)))
            await until(lambda: two.node.sinks and two.node.sinks[0].size, "something has come")
            proxy.flowing.clear()
            assert not await sending
            assert one.log.has("gave up sending a snapshot")
            proxy.cut()
            await until(lambda: two.node.sinks[0].aborted, "aborted")
            assert two.log.has("gave up a snapshot that arrived in part")

    run(test())


def test_a_fault_while_writing_neither_hangs_nor_is_silent() -> None:
    class FaultySink(Sink):
        def write(self, data: bytes) -> None:
            raise ZeroDivisionError("a fault of the sink")

    class FaultyNode(FakeNode):
        def make_sink(self) -> Sink:
            return FaultySink() if len(self.sinks) < 3 else Sink()

    async def test() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        one, two = Site(1), Site(2, node=FaultyNode())
        async with running(one, two):
            assert await one.peers.send_snapshot(snapshot(1, 2), Source(MIB))
            assert len(faults) == 3 and all(isinstance(fault, ZeroDivisionError) for fault in faults)
            assert [sink.aborted for sink in two.node.sinks] == [True, True, True, False]

    run(test())


def test_attempts_that_get_no_further_come_to_an_end() -> None:
    class ForgetfulNode(FakeNode):
        async def snapshot_done(self, message: object, sink: SnapshotSink) -> bool:
            for inbound in list(two.peers._inbound.values()):
                inbound.connection.cut("again and again, at the end")
            return True

    limits = dataclasses.replace(QUICK, snapshot_patience_s=0.3)
    one, two = Site(1, limits), Site(2, limits, node=ForgetfulNode())

    async def test() -> None:
        async with running(one, two):
            assert not await one.peers.send_snapshot(snapshot(1, 2), Source(MIB))
            assert len(two.node.sinks) > 1 and one.log.has("gave up sending a snapshot")

    run(test())


def test_cancelled_or_closed_while_sending_leaves_nothing_behind() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, snapshot_bytes_s=4 * MIB)
        one, two = Site(1, limits), Site(2)
        async with running(one, two):
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), Source(32 * MIB)))
            await until(lambda: two.node.sinks and two.node.sinks[0].size, "something has come")
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            sending = asyncio.ensure_future(one.peers.send_snapshot(snapshot(1, 2), Source(32 * MIB)))
            size = two.node.sinks[0].size
            await until(lambda: two.node.sinks[0].size > size, "it goes on")
            await one.peers.close()
            assert not await sending
            await two.peers.close()
            assert len(two.node.sinks) == 1 and two.node.sinks[0].aborted
        own = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {own}, "no task is left")

    run(test())
