"""Who is let in: clusters, members, versions, those who were removed and those whom nobody knows yet."""

from __future__ import annotations

import asyncio

import pytest

from node.peers_harness import CLUSTER, Site, heartbeat, run, running, until


async def refused(one: Site, two: Site, text: str) -> None:
    """Each of one's attempts is refused with these words, in both logs."""
    one.peers.set_members({2: [two.url]})
    await until(lambda: one.log.has("warn cannot connect to a member", "it refuses us", text), f"said: {text}")
    await until(lambda: two.log.has("warn refused a member's connection", f"member_id={one.id:x}", text), "said")
    assert not one.connected(2) and two.node.messages == []


def test_a_member_of_another_cluster_is_refused() -> None:
    async def test() -> None:
        one, two = Site(1, cluster=0xBAD), Site(2)
        async with running(one, two, introduce=False):
            two.peers.set_members({2: [two.url]}, removed=[1])
            await refused(one, two, f"cluster ID mismatch: bad, this member's is {CLUSTER:x}")
            assert one.node.was_removed == 0

    run(test())


def test_who_wants_somebody_else_is_refused() -> None:
    async def test() -> None:
        one, three = Site(1), Site(3)
        async with running(one, three, introduce=False):
            await refused(one, three, "it wants member 2, this is member 3")

    run(test())


def test_who_says_that_it_is_us_is_refused() -> None:
    async def test() -> None:
        one, two = Site(2), Site(2)
        async with running(one, two, introduce=False):
            one.peers._urls = {2: (two.url,)}
            one.peers._match()
            await until(lambda: two.log.has("it says that it is member 2"), "refused")

    run(test())


@pytest.mark.parametrize(("version", "is_taken"), [
    ("3.6.0", True), ("3.8.0", True), ("3.7.99-rc.1", True), ("3.5.9", False), ("3.9.0", False), ("4.7.0", False),
    ("", False), ("x.y", False),
])  # fmt: skip
def test_members_are_at_most_a_minor_version_apart(version: str, is_taken: bool) -> None:
    async def test() -> None:
        one, two = Site(1, version=version), Site(2)
        async with running(one, two, introduce=False):
            if is_taken:
                one.peers.set_members({2: [two.url]})
                await until(lambda: one.connected(2), "connected")
            else:
                await refused(one, two, "incompatible version")

    run(test())


def test_another_version_of_the_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.server.peers.dial.VERSION", 2)

    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.log.has("it refuses us: peer protocol 2, this member speaks 1"), "refused")
            await until(lambda: two.log.has("peer protocol 2, this member speaks 1"), "said")

    run(test())


def test_the_same_sentence_is_logged_once_in_a_while() -> None:
    async def test() -> None:
        one, two = Site(1, cluster=0xBAD), Site(2)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            made = []
            admit = two.peers.admit
            two.peers.admit = lambda inbound, hello: made.append(hello) or admit(inbound, hello)  # type: ignore[method-assign]
            await until(lambda: len(made) >= 6, "several attempts")
            assert sum("cannot connect" in line for line in one.log.lines) == 1
            assert sum("cluster ID mismatch" in line for line in two.log.lines) == 1

    run(test())


def test_a_removed_member_learns_it_and_says_no_more() -> None:
    async def test() -> None:
        one, two, three = Site(1), Site(2), Site(3)
        async with running(one, two, three):
            for site in (two, three):
                site.peers.set_members({2: [two.url], 3: [three.url]})
            await until(lambda: one.node.was_removed, "told")
            assert one.log.has("it refuses us: the member has been permanently removed from the cluster")
            await until(lambda: two.log.has("the member has been permanently removed", "member_id=1"), "said")
            assert two.node.active_since[1] is None and two.connected(3)
            one.peers.send([heartbeat(1, 2, 1)])
            two.peers.send([heartbeat(2, 1, 1), heartbeat(2, 3, 1)])
            await until(lambda: three.node.messages, "the others go on")
            assert two.node.messages == [] and one.node.messages == []

    run(test())


def test_a_removed_member_is_remembered_over_a_restart_and_may_be_added_again() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False):
            two.peers.set_members({2: [two.url]}, removed=[1])
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.node.was_removed, "told")
            two.peers.set_members({1: [one.url], 2: [two.url]})
            await until(lambda: one.connected(2) and two.connected(1), "connected")

    run(test())


def test_a_member_that_is_not_known_yet_is_heard_and_answered() -> None:
    """Two was away when one was added and became leader: only one can tell it, so two must listen, and answer."""

    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(one, two, introduce=False):
            two.peers.set_members({2: [two.url]})
            one.peers.set_members({1: [one.url], 2: [two.url]})
            await until(lambda: one.connected(2) and two.connected(1), "connected both ways")
            one.peers.send([heartbeat(1, 2, 1)])
            two.peers.send([heartbeat(2, 1, 2)])
            await until(lambda: one.node.messages and two.node.messages, "both heard")
            two.peers.set_members({1: [one.url], 2: [two.url]})
            await asyncio.sleep(0)
            assert two.node.activity == [(1, True)], "the connection that stood is used on"

    run(test())


def test_an_unknown_member_is_forgotten_when_it_leaves() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        async with running(two, introduce=False):
            async with running(one, introduce=False):
                one.peers.set_members({2: [two.url]})
                await until(lambda: one.connected(2) and two.connected(1), "connected")
            await until(lambda: 1 not in two.peers._members, "forgotten")
            assert 1 not in two.peers._removed

    run(test())


def test_unknown_members_are_bounded() -> None:
    async def test() -> None:
        two = Site(2)
        strangers = [Site(number) for number in range(10, 27)]
        async with running(two, *strangers, introduce=False):
            for stranger in strangers:
                stranger.peers.set_members({2: [two.url]})
            await until(lambda: sum(stranger.connected(2) for stranger in strangers) == 16, "sixteen are in")
            await until(lambda: two.log.has("too many members that this one does not know"), "one is not")
            assert len(two.peers._members) == 16

    run(test())
