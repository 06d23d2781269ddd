"""
The rooms of server/cluster without processes: what becomes of batches, reads and changes of membership.

Raft is the real one, alone or among members that the test plays; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from fastkv.errors import Error
from fastkv.raft import Config, ConfState, Entry, EntryKind, Kind, MemoryStorage, Message, Node, make_batch
from fastkv.rpc import status
from fastkv.server.cluster import bootstrap, membership
from fastkv.server.cluster.membership import Kind as Change
from fastkv.server.cluster.membership import Member, MemberChange, Membership
from fastkv.server.cluster.proposals import Proposals
from fastkv.server.cluster.reads import Reads

ALONE, THREE = ConfState((1,)), ConfState((1, 2, 3))
URLS = ("http://127.0.0.1:1",)


def raft(conf: ConfState) -> Node:
    return Node(Config(1), MemoryStorage(conf), random.Random(7))


def settle(node: Node) -> list[Message]:
    """Carry out what is ready, with a disk that is at once durable; what was sent."""
    sent: list[Message] = []
    while node.has_ready():
        ready = node.ready()
        sent += ready.messages
        node.log._storage.persist(ready.hard_state, ready.entries)  # type: ignore[attr-defined]
        node.persisted(ready.number)
        sent += ready.messages_after_persist
        if ready.committed:
            node.applied(ready.committed[-1].index)
    return sent


def follow(node: Node, leader: int, term: int) -> None:
    node.step(Message(Kind.HEARTBEAT, 1, leader, term))
    settle(node)


def lose(node: Node, leader: int, term: int) -> list[int]:
    """A new leader commits something of its own: what was forwarded to the one before can never commit."""
    entry = Entry(term, node.log.last_index + 1, EntryKind.EMPTY, b"")
    before = entry.index - 1
    node.step(
        Message(Kind.APPEND, 1, leader, term, before, node.log.term(before) if before else 0, entry.index, (entry,))
    )
    lost: list[int] = []
    while node.has_ready():
        ready = node.ready()
        node.log._storage.persist(ready.hard_state, ready.entries)  # type: ignore[attr-defined]
        node.persisted(ready.number)
        lost += ready.lost
        if ready.committed:
            node.applied(ready.committed[-1].index)
    return lost


class Source:
    """Batches 1, 2, 3 ..., as many as it is given."""

    def __init__(self, count: int, *, bound: bool = False) -> None:
        self.bound = bound
        self.left = list(range(1, count + 1))
        self.settled: list[tuple[int, str]] = []

    def take(self) -> tuple[int, bytes] | None:
        if not self.left:
            return None
        sequence = self.left.pop(0)
        return sequence, make_batch(1, sequence)

    def settle(self, sequence: int, error: Error) -> None:
        self.settled.append((sequence, str(error)))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def proposed(messages: list[Message]) -> list[int]:
    return [
        int.from_bytes(entry.data[8:16], "little")
        for message in messages
        if message.kind is Kind.PROPOSE
        for entry in message.entries
    ]


def test_without_a_leader_nothing_is_taken() -> None:
    node, source = raft(THREE), Source(1)
    proposals = Proposals(node, [source], Clock(), 7.0)
    proposals.pull(syncing=False)
    assert source.left == [1]
    follow(node, 2, 1)
    proposals.pull(syncing=False)
    assert proposed(settle(node)) == [1] and not source.left


def test_a_leader_takes_nothing_while_its_disk_is_busy() -> None:
    node, source = raft(ALONE), Source(1)
    node.campaign()
    settle(node)
    proposals = Proposals(node, [source], Clock(), 7.0)
    proposals.pull(syncing=True)
    assert source.left == [1]
    proposals.pull(syncing=False)
    assert not source.left


def test_a_lost_batch_goes_to_the_next_leader_before_newer_ones() -> None:
    node, source = raft(THREE), Source(4)
    proposals = Proposals(node, [source], Clock(), 7.0)
    follow(node, 2, 1)
    proposals.pull(syncing=False)
    assert proposed(settle(node)) == [1, 2], "a follower has two batches open"
    lost = lose(node, 3, 2)
    assert lost == [1, 2]
    proposals.lost(lost)
    proposals.pull(syncing=False)
    assert proposed(settle(node)) == [1, 2]
    assert source.left == [3, 4] and not source.settled


def test_a_bound_batch_ends_with_its_term() -> None:
    """What a leader decides by its clock must not come true under its successor."""
    node, source = raft(THREE), Source(1, bound=True)
    proposals = Proposals(node, [source], Clock(), 7.0)
    follow(node, 2, 1)
    proposals.pull(syncing=False)
    settle(node)
    proposals.lost(lose(node, 3, 2))
    proposals.pull(syncing=False)
    assert proposed(settle(node)) == []
    assert source.settled == [(1, "etcdserver: no leader")]


def test_what_a_snapshot_swallowed_is_an_error_and_never_proposed_again() -> None:
    node, source = raft(THREE), Source(1)
    proposals = Proposals(node, [source], Clock(), 7.0)
    follow(node, 2, 1)
    proposals.pull(syncing=False)
    settle(node)
    proposals.uncertain([1])
    proposals.lost([1])
    assert source.settled == [(1, "etcdserver: request timed out")]


def test_a_batch_that_finds_no_leader_in_time_is_given_up() -> None:
    node, source, clock = raft(THREE), Source(1), Clock()
    proposals = Proposals(node, [source], clock, 7.0)
    follow(node, 2, 1)
    proposals.pull(syncing=False)
    settle(node)
    proposals.lost([1])
    proposals.tick()
    assert not source.settled
    clock.now = 7.1
    proposals.tick()
    assert source.settled == [(1, "context deadline exceeded")]


def test_a_full_disk_refuses_what_comes() -> None:
    node, source = raft(THREE), Source(2)
    proposals = Proposals(node, [source], Clock(), 7.0)
    proposals.refuse_with = status.unhealthy()
    proposals.pull(syncing=False)
    assert [sequence for sequence, _ in source.settled] == [1, 2]


# -- reads ----------------------------------------------------------------------------------------------------
def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


def test_reads_that_wait_share_one_question_and_go_on_when_its_index_is_applied() -> None:
    async def use() -> None:
        node = raft(ALONE)
        node.campaign()
        settle(node)
        reads = Reads(node, lambda: None, Clock(), 0.1)
        waiting = [asyncio.ensure_future(reads.confirm(20)) for _ in range(3)]
        await asyncio.sleep(0)
        reads.pull()
        states = node.ready().read_states
        assert len(states) == 1
        reads.states([states[0]._replace(index=node.log.applied + 1)])
        await asyncio.sleep(0)
        assert not any(read.done() for read in waiting)
        reads.applied(node.log.applied + 1)
        await asyncio.gather(*waiting)

    run(use())


def test_a_read_that_nobody_confirms_times_out() -> None:
    async def use() -> None:
        reads = Reads(raft(THREE), lambda: None, Clock(), 0.1)
        with pytest.raises(Error, match=r"^etcdserver: request timed out$"):
            await reads.confirm(0.01)

    run(use())


# -- membership -----------------------------------------------------------------------------------------------
def members(*ids: int, learners: tuple[int, ...] = ()) -> Membership:
    return Membership(
        tuple(Member(id, f"m{id}", (f"http://127.0.0.1:{id}",), (), id in learners) for id in (*ids, *learners))
    )


def change(before: Membership, kind: Change, member: Member) -> tuple[Membership, str]:
    after, why_not = membership.applied(before, membership.conf_change(before, MemberChange(kind, member)))
    return after, str(why_not or "")


def test_a_membership_survives_its_bytes() -> None:
    whole = members(1, 2, learners=(3,))._replace(removed=frozenset((9, 8)), base=17)
    assert membership.decode(membership.encode(whole)) == whole
    assert membership.decode(b"") == Membership()
    with pytest.raises(Error):
        membership.decode(membership.encode(whole)[:-1])


def test_changes_do_what_they_say() -> None:
    before = members(1, 2, learners=(3,))
    new = Member(4, "", ("http://127.0.0.1:4",))
    after, _ = change(before, Change.ADD, new)
    assert after.conf() == ConfState((1, 2, 4), (3,))
    after, _ = change(before, Change.PROMOTE, Member(3, "", ()))
    assert after.conf() == ConfState((1, 2, 3))
    after, _ = change(before, Change.REMOVE, Member(2, "", ()))
    assert after.conf() == ConfState((1,), (3,)) and after.removed == {2}
    after, _ = change(before, Change.UPDATE, Member(2, "", ("http://127.0.0.1:7",)))
    assert after.get(2) == Member(2, "m2", ("http://127.0.0.1:7",))
    after, _ = change(before, Change.PUBLISH, Member(2, "b", (), ("http://127.0.0.1:8",)))
    assert after.get(2) == Member(2, "b", ("http://127.0.0.1:2",), ("http://127.0.0.1:8",))


@pytest.mark.parametrize(
    ("kind", "member", "error"),
    [
        (Change.ADD, Member(2, "", ("http://127.0.0.1:9",)), "etcdserver: member ID already exist"),
        (Change.ADD, Member(9, "", ("http://127.0.0.1:9",)), "etcdserver: member ID already exist"),
        (Change.ADD, Member(4, "", ("http://127.0.0.1:1",)), "etcdserver: Peer URLs already exists"),
        (Change.UPDATE, Member(2, "", ("http://127.0.0.1:1",)), "etcdserver: Peer URLs already exists"),
        (Change.REMOVE, Member(7, "", ()), "etcdserver: member not found"),
        (Change.PROMOTE, Member(2, "", ()), "etcdserver: can only promote a learner member"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(kind: Change, member: Member, error: str) -> None:
    before = members(1, 2, learners=(3,))._replace(removed=frozenset((9,)))
    assert change(before, kind, member) == (before, error)


def test_a_change_proposed_before_a_promotion_does_not_undo_it() -> None:
    """It names the role that the member had: carried out, it would make a learner of the voter again."""
    learner = members(1, learners=(2,))
    published = membership.conf_change(learner, MemberChange(Change.PUBLISH, Member(2, "b", ())))
    promoted, _ = change(learner, Change.PROMOTE, Member(2, "", ()))
    after, why_not = membership.applied(promoted, published)
    assert after == promoted and why_not is not None


def test_ids_are_computed_as_etcd_does() -> None:
    assert membership.new_member_id(["http://127.0.0.1:2380"], 1700000000) == membership.new_member_id(
        ("http://127.0.0.1:2380",), 1700000000
    )
    assert membership.new_member_id(URLS, 1) != membership.new_member_id(URLS, 2)


def test_a_membership_without_history_is_given_to_the_store_once() -> None:
    class Engine:
        membership = b""
        applied_index = 12
        written = 0

        def set_membership(self, data: bytes) -> None:
            self.membership = data
            self.written += 1

    engine: Any = Engine()
    assert bootstrap.settle(engine, members(1)).base == 12
    engine.applied_index = 15
    assert bootstrap.settle(engine, members(1)).base == 12
    assert engine.written == 1
