"""Members that talk: order, loss and its report, reconnection, bounds, questions. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from fastkv.raft import Kind, Message
from fastkv.server.peers import LocalIdentity, PeerError, Peers, bind, parse
from node.peers_harness import QUICK, FakeNode, Lines, Proxy, Site, append, heartbeat, run, running, until


def test_messages_arrive_in_order_on_each_stream() -> None:
    async def test() -> None:
        one, two, three = Site(1), Site(2), Site(3)
        async with running(one, two, three):
            for index in range(500):
                one.peers.send([append(1, 2, index, b"x" * index), heartbeat(1, 2, index), append(1, 3, index)])
                two.peers.send([heartbeat(2, 3, index)])
            await until(lambda: len(two.node.messages) == 1000 and len(three.node.messages) == 1000, "all arrived")
            appends = [message for message in two.node.messages if message.kind is Kind.APPEND]
            assert appends == [append(1, 2, index, b"x" * index) for index in range(500)]
            assert [message.context for message in two.node.messages if message.kind is Kind.HEARTBEAT] == [*range(500)]
            assert [message.context for message in three.node.messages if message.sender == 2] == [*range(500)]
            assert one.node.messages == [] and one.node.lost == []

    run(test())


def test_every_kind_of_message_arrives() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        sent = [Message(kind, 2, 1, 7, index=3) for kind in Kind if kind is not Kind.SNAPSHOT]
        async with running(one, two):
            one.peers.send(sent)
            await until(lambda: len(two.node.messages) == len(sent), "all arrived")
            assert sorted(two.node.messages) == sorted(sent)

    run(test())


def test_large_messages_arrive_whole_and_do_not_hold_up_urgent_ones() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        data = bytes(range(256)) * (64 << 10)
        async with running(one, two):
            one.peers.send([append(1, 2, 0, data), append(1, 2, 1, b"small"), heartbeat(1, 2, 1)])
            await until(lambda: len(two.node.messages) == 3, "all arrived")
            assert two.node.messages[0].kind is Kind.HEARTBEAT, "the urgent one came behind 16 MiB"
            assert two.node.messages[1:] == [append(1, 2, 0, data), append(1, 2, 1, b"small")]

    run(test())


def test_what_one_read_brings_is_one_call() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two):
            one.peers.send([heartbeat(1, 2, number) for number in range(1000)])
            await until(lambda: len(two.node.messages) == 1000, "all arrived")
            assert two.node.calls < 20

    run(test())


def test_a_cut_connection_comes_back_and_is_reported_once() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            assert one.node.lost == []
            for round in range(1, 4):
                proxy.cut()
                await until(lambda: one.node.activity.count((2, False)) == round, "noticed")  # noqa: B023
                await until(lambda: one.connected(2), "connected anew")
                assert one.node.lost == [2] * round, "each episode is reported once"
                one.peers.send([heartbeat(1, 2, round), append(1, 2, round)])
                await until(lambda: len(two.node.messages) == 2 * round, "messages flow again")  # noqa: B023

    run(test())


def test_a_member_that_calls_is_called_back_at_once() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, backoff_min_s=600.0, backoff_max_s=600.0)
        one, two = Site(1, limits), Site(2)
        async with running(one, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: sum("cannot connect" in line for line in one.log.lines) == 1, "tried")
            async with running(two, introduce=False):
                two.peers.set_members({1: [one.url]})
                await until(lambda: one.connected(2) and two.connected(1), "both ways")

    run(test())


def test_messages_to_a_member_that_is_down_are_dropped_and_reported_once() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, introduce=False):
            one.peers.set_members({2: [two.url]})
            one.peers.send([heartbeat(1, 2, 0)])
            assert one.node.lost == [], "not from within send"
            for _ in range(50):
                one.peers.send([heartbeat(1, 2, 0), append(1, 2, 0)])
                await asyncio.sleep(0)
            assert one.node.lost == [2]
            async with running(two, introduce=False):
                two.peers.set_members({1: [one.url]})
                await until(lambda: one.connected(2), "connected")
                one.peers.send([heartbeat(1, 2, 1)])
                await until(lambda: two.node.messages, "arrived")
                assert two.node.messages == [heartbeat(1, 2, 1)], "what was dropped stays dropped"
            await until(lambda: not one.connected(2), "noticed")
            one.peers.send([heartbeat(1, 2, 0)])
            await until(lambda: len(one.node.lost) == 2, "the second episode is reported too")

    run(test())


def test_the_queue_is_bounded_by_bytes_and_what_does_not_fit_is_reported_once() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, queue_bytes_max=4 << 20)
        one, two = Site(1, limits), Site(2)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            proxy.flowing.clear()
            data = bytes(1 << 20)
            for index in range(60):
                one.peers.send([append(1, 2, index, data)])
                await asyncio.sleep(0)
            assert one.node.lost == [2]
            one.peers.send([heartbeat(1, 2, 1)])  # the other stream has room
            proxy.flowing.set()
            await until(lambda: two.node.messages and two.node.messages[-1].kind is Kind.APPEND, "appends flow")
            link = one.peers._members[2].appends
            assert link.connection is not None
            await until(lambda: link.connection is not None and link.connection.waiting_bytes == 0, "sent")
            before = len(two.node.messages)
            one.peers.send([append(1, 2, 99)])
            await until(lambda: two.node.messages[-1] == append(1, 2, 99), "there is room again")
            assert before < 40 and one.node.lost == [2]
            indexes = [message.index for message in two.node.messages if message.kind is Kind.APPEND]
            assert indexes == sorted(indexes)

    run(test())


def test_the_queue_is_bounded_by_messages() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, queue_messages_max=10)
        one, two = Site(1, limits), Site(2)
        async with running(one, two):
            one.peers.send([heartbeat(1, 2, number) for number in range(100)])
            await until(lambda: two.node.messages, "arrived")
            await until(lambda: one.node.lost == [2], "reported")
            assert two.node.messages == [heartbeat(1, 2, number) for number in range(10)]

    run(test())


def test_a_message_that_no_member_would_take_is_dropped_here() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, message_bytes_max=1 << 20)
        one, two = Site(1, limits), Site(2, limits)
        async with running(one, two):
            one.peers.send([append(1, 2, 0, bytes(2 << 20)), append(1, 2, 1)])
            await until(lambda: two.node.messages, "arrived")
            assert two.node.messages == [append(1, 2, 1)]
            await until(lambda: one.node.lost == [2], "reported")
            assert one.log.has("too large")
            assert one.node.activity == [(2, True)], "the connection stands"

    run(test())


def test_half_open_connections_are_found_by_both_sides() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, ping_interval_s=0.05, silence_s=0.5)
        one, two = Site(1, limits), Site(2, limits)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            two.peers.set_members({1: [one.url]})
            await until(lambda: one.connected(2), "connected")
            proxy.flowing.clear()
            await until(lambda: not one.connected(2), "the dialer noticed")
            await until(lambda: two.log.has("lost a connection", "silent"), "the acceptor noticed")
            assert one.log.has("lost the connection to a member", "silent")
            proxy.flowing.set()
            await until(lambda: one.connected(2), "connected anew")

    run(test())


def test_an_idle_connection_stays() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, ping_interval_s=0.02, silence_s=0.5)
        one, two = Site(1, limits), Site(2, limits)
        async with running(one, two):
            loop = asyncio.get_running_loop()
            end = loop.time() + 1.2
            await until(lambda: loop.time() > end)
            assert one.node.activity == [(2, True)] and two.node.activity == [(1, True)]

    run(test())


def test_members_change_their_urls() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url], 1: [one.url]})
            await until(lambda: proxy.connections == 2 and one.connected(2), "connected by the new way")
            assert one.node.activity == [(2, True), (2, False), (2, True)] and one.node.lost == []
            one.peers.send([heartbeat(1, 2, 1)])
            await until(lambda: two.node.messages, "arrived")

    run(test())


def test_of_several_urls_one_that_works_is_found() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        closed = bind("http://127.0.0.1:0")
        dead = f"http://127.0.0.1:{closed.socket.getsockname()[1]}"
        closed.socket.close()
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [dead, "http://[::1", "http://127.0.0.1:0", two.url]})
            await until(lambda: one.connected(2), "connected")
            assert one.log.has("cannot connect to a member", dead, "connection refused")

    run(test())


# -- questions ------------------------------------------------------------------------------------------------
def test_questions_are_answered_each_its_own() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two):
            asked = [one.peers.ask(2, "renew", b"%d" % number, 10) for number in range(200)]
            assert await asyncio.gather(*asked) == [b"renew:%d" % number for number in range(200)]
            assert await two.peers.ask(1, "x", b"", 10) == b"x:"
            assert two.node.asked[0] == (1, "renew", b"0")

    run(test())


def test_a_slow_question_holds_up_no_other() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two):
            slow = asyncio.ensure_future(one.peers.ask(2, "wait", b"", 20))
            await until(lambda: two.node.asked, "asked")
            assert await one.peers.ask(2, "quick", b"", 10) == b"quick:"
            assert not slow.done()
            two.node.hold.set()
            assert await slow == b"wait:"

    run(test())


def test_questions_fail_as_the_other_side_says_or_in_time() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, urgent_bytes_max=1 << 16)
        one, two = Site(1, limits), Site(2, limits)
        async with running(one, two):
            with pytest.raises(PeerError, match=r"^not a primary lessor$"):
                await one.peers.ask(2, "refuse", b"", 10)
            with pytest.raises(PeerError, match="no answer"):
                await one.peers.ask(2, "wait", b"", 0.05)
            with pytest.raises(PeerError, match="the answer is too large"):
                await one.peers.ask(2, "large", b"70000", 10)
            with pytest.raises(PeerError, match="too large"):
                await one.peers.ask(2, "x", bytes(70000), 10)
            with pytest.raises(PeerError, match="not known"):
                await one.peers.ask(3, "x", b"", 10)
            assert await one.peers.ask(2, "x", b"", 10) == b"x:", "the connection stands"
            assert one.node.activity == [(2, True)]

    run(test())


def test_a_fault_in_the_answer_is_an_answer_and_is_not_silent() -> None:
    async def test() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        one, two = Site(1), Site(2)
        async with running(one, two):
            with pytest.raises(PeerError, match="the question failed"):
                await one.peers.ask(2, "fault", b"", 10)
            assert len(faults) == 1 and isinstance(faults[0], ZeroDivisionError)

    run(test())


def test_questions_are_bounded() -> None:
    async def test() -> None:
        few = dataclasses.replace(QUICK, asks_max=3)
        one, two, three = Site(1, few), Site(2), Site(3, few)
        async with running(one, two, three):
            waiting = [asyncio.ensure_future(one.peers.ask(2, "wait", b"", 20)) for _ in range(3)]
            await until(lambda: len(two.node.asked) == 3, "asked")
            with pytest.raises(PeerError, match="3 questions"):
                await one.peers.ask(2, "x", b"", 10)
            more = [asyncio.ensure_future(two.peers.ask(3, "wait", b"", 20)) for _ in range(3)]
            await until(lambda: len(three.node.asked) == 3, "asked")
            with pytest.raises(PeerError, match="too many questions at once"):
                await two.peers.ask(3, "x", b"", 10)
            two.node.hold.set()
            three.node.hold.set()
            await asyncio.gather(*waiting, *more)

    run(test())


def test_a_question_fails_with_its_connection() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False), Proxy(two.port) as proxy:
            one.peers.set_members({2: [proxy.url]})
            with pytest.raises(PeerError, match="not connected"):
                await one.peers.ask(2, "x", b"", 10)
            await until(lambda: one.connected(2), "connected")
            waiting = [asyncio.ensure_future(one.peers.ask(2, "wait", b"", 20)) for _ in range(5)]
            await until(lambda: len(two.node.asked) == 5, "asked")
            proxy.cut()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, PeerError) and "was lost" in str(result)

    run(test())


# -- life -----------------------------------------------------------------------------------------------------
def test_close_ends_everything_and_frees_the_port() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two):
            waiting = asyncio.ensure_future(one.peers.ask(2, "wait", b"", 20))
            await until(lambda: two.node.asked, "asked")
            await one.peers.close()
            await one.peers.close()
            with pytest.raises(PeerError):
                await waiting
            assert not one.connected(2)
            bind(one.url).socket.close()
            await until(lambda: not two.connected(1), "the other side noticed")
        own = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {own}, "no task is left")

    run(test())


def test_ipv6() -> None:
    async def test() -> None:
        one, two = Site(1, host="[::1]"), Site(2, host="[::1]")
        async with running(one, two):
            one.peers.send([heartbeat(1, 2, 1)])
            await until(lambda: two.node.messages, "arrived")

    run(test())


def test_peer_urls() -> None:
    assert parse("http://10.0.0.1:2380") == ("10.0.0.1", 2380, False)
    assert parse("https://[fd00::1]:2380") == ("fd00::1", 2380, True)
    assert str(parse("https://[fd00::1]:2380")) == "[fd00::1]:2380"
    for bad in ("unix://x:1", "http://host", "http://:2380", "http://a@b:1", "ftp://a:1", "http://[::1"):
        with pytest.raises(ValueError):
            parse(bad)


def test_a_taken_port_is_named() -> None:
    taken = bind("http://127.0.0.1:0")
    taken.socket.listen()
    port = taken.socket.getsockname()[1]
    with pytest.raises(OSError, match=f"listen 127.0.0.1:{port}: address already in use"):
        bind(f"http://127.0.0.1:{port}")
    taken.socket.close()


def test_a_listener_with_tls_needs_certificates() -> None:
    listener = bind("https://127.0.0.1:0")
    with pytest.raises(ValueError, match="server_tls"):
        Peers(LocalIdentity(1, 1, "3.7.3"), [listener], FakeNode(), Lines())
    listener.socket.close()
