"""Several Readys under way: writes told late, and writes that were overtaken (log.py, core.persisted)."""

from __future__ import annotations

import random

import pytest

from fastkv.raft import (
    Config,
    ConfState,
    Entry,
    EntryKind,
    InvariantError,
    Kind,
    MemoryStorage,
    Message,
    Node,
    Ready,
    Snapshot,
    make_batch,
)
from raft.harness import Cluster


def append(sender: int, term: int, index: int, log_term: int, terms: list[int]) -> Message:
    entries = tuple(Entry(t, index + i, EntryKind.EMPTY, b"") for i, t in enumerate(terms, 1))
    return Message(Kind.APPEND, 1, sender, term, index, log_term, 0, entries)


def new_node(voters: tuple[int, ...] = (1, 2, 3)) -> tuple[Node, MemoryStorage]:
    storage = MemoryStorage(ConfState(voters))
    return Node(Config(1), storage, random.Random(1)), storage


def step(node: Node, message: Message) -> Ready:
    node.step(message)
    return node.ready()


def test_an_answer_waits_for_the_disk_and_a_refusal_does_not() -> None:
    node, _ = new_node()
    node.persisted(step(node, append(2, 1, 0, 0, [])).number)
    taken = step(node, append(2, 1, 0, 0, [1]))
    assert not taken.messages and [m.index for m in taken.messages_after_persist] == [1]
    refused = step(node, append(2, 1, 7, 1, [1]))
    assert [m.reject for m in refused.messages] == [True] and not refused.messages_after_persist


def test_an_answer_to_a_repeated_append_waits_for_the_write_before_it() -> None:
    # The second Ready has nothing to write, but what it acknowledges is still on its way to the disk.
    node, _ = new_node()
    first = step(node, append(2, 1, 0, 0, [1]))
    again = step(node, append(2, 1, 0, 0, [1]))
    assert first.must_sync and not again.entries and not again.messages
    assert [m.index for m in again.messages_after_persist] == [1]


def test_a_changed_commit_index_alone_needs_no_sync() -> None:
    node, _ = new_node()
    node.persisted(step(node, append(2, 1, 0, 0, [1, 1])).number)
    ready = step(node, Message(Kind.HEARTBEAT, 1, 2, 1, commit=2))
    assert ready.hard_state == (1, 0, 2) and not ready.must_sync
    assert [entry.index for entry in ready.committed] == [1, 2]


def test_an_entry_is_applied_only_when_it_is_durable_here() -> None:
    node, _ = new_node()
    node.persisted(step(node, append(2, 1, 0, 0, [])).number)
    write = step(node, append(2, 1, 0, 0, [1, 1]))
    ready = step(node, Message(Kind.HEARTBEAT, 1, 2, 1, commit=2))
    assert not ready.committed
    node.persisted(write.number)
    assert [entry.index for entry in node.ready().committed] == [1, 2]


def test_persisted_covers_all_readys_up_to_its_number() -> None:
    node, _ = new_node()
    step(node, append(2, 1, 0, 0, [1]))
    step(node, append(2, 1, 1, 1, [1]))
    third = step(node, append(2, 1, 2, 1, [1]))
    node.persisted(third.number)
    assert node.log.stable == 3
    node.persisted(third.number)
    assert node.log.stable == 3, "telling it twice changes nothing"


def test_a_ready_that_was_never_taken_cannot_be_persisted() -> None:
    node, _ = new_node()
    with pytest.raises(InvariantError, match="Ready 1 is persisted, but the last one is 0"):
        node.persisted(1)


def test_a_write_of_entries_that_were_replaced_since_does_not_count() -> None:
    node, _ = new_node()
    first = step(node, append(2, 1, 0, 0, [1, 1, 1]))
    second = step(node, append(3, 2, 1, 1, [2, 2]))
    node.persisted(first.number)
    assert node.log.stable == 1, "of the first write only entry 1 is still true"
    node.persisted(second.number)
    assert node.log.stable == 3


def test_a_write_does_not_count_when_an_equal_entry_came_back_in_between() -> None:
    # The ABA: 2@1 is being written, is replaced by 2@2, and comes back as 2@1 from a leader that has it. Whoever takes
    # the first write's end for the third's believes in an entry that the second write is about to overwrite.
    node, storage = new_node()
    first = step(node, append(2, 1, 0, 0, [1, 1]))
    second = step(node, append(3, 2, 1, 1, [2]))
    third = step(node, append(2, 3, 1, 1, [1]))
    assert node.log.term(2) == 1
    node.persisted(first.number)
    assert node.log.stable == 1
    for ready in (first, second):
        storage.persist(ready.hard_state, ready.entries)
    assert storage.term(2) == 2, "had the machine stopped here, 2@1 would be gone"
    node.persisted(second.number)
    assert node.log.stable == 1
    storage.persist(third.hard_state, third.entries)
    node.persisted(third.number)
    assert node.log.stable == 2 and storage.term(2) == 1


def test_a_cut_reaches_entries_that_are_durable_already() -> None:
    node, _ = new_node()
    node.persisted(step(node, append(2, 1, 0, 0, [1, 1, 1])).number)
    ready = step(node, append(3, 2, 1, 1, [2]))
    assert node.log.stable == 1 and [(e.index, e.term) for e in ready.entries] == [(2, 2)]


def test_a_vote_counts_for_a_candidate_only_when_the_write_with_it_is_done() -> None:
    node, _ = new_node((1,))
    node.campaign()
    first = node.ready()
    node.campaign()
    second = node.ready()
    node.persisted(first.number)
    assert not node.is_leader, "that was the vote of the campaign before"
    node.persisted(second.number)
    assert node.is_leader and node.term == 2


def test_promises_of_a_term_that_was_left_before_they_were_durable_are_void() -> None:
    node, _ = new_node()
    node.step(append(2, 1, 0, 0, [1]))
    node.step(append(3, 2, 0, 0, [2]))
    ready = node.ready()
    assert [(m.term, m.index) for m in ready.messages_after_persist] == [(2, 1)]


def test_a_snapshot_voids_the_writes_before_it() -> None:
    node, storage = new_node()
    first = step(node, append(2, 1, 0, 0, [1, 1]))
    second = step(node, Message(Kind.SNAPSHOT, 1, 2, 1, snapshot=Snapshot(9, 1, ConfState((1, 2, 3)))))
    third = step(node, append(2, 1, 9, 1, [1]))
    assert second.snapshot is not None and not third.snapshot
    node.persisted(first.number)
    assert node.log.pending_snapshot is not None and not node.ready().committed
    storage.persist(second.hard_state, second.entries, second.snapshot)
    node.persisted(second.number)
    node.applied(9)
    assert node.log.pending_snapshot is None and node.log.stable == 9
    node.persisted(third.number)
    assert node.log.stable == 10


def test_applied_and_persisted_may_come_in_any_order() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    node, member = cluster[1], cluster.members[1]
    member.disk_stopped = member.apply_stopped = True
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    assert len(member.unwritten) == 5
    member.write(3)
    member.work()
    assert len(member.unapplied) == 3, "three are durable and may be applied while two are being written"
    member.apply(1)
    member.write(2)
    member.work()
    member.apply()
    assert node.log.applied == 6 and len(member.values()) == 5


def test_applied_beyond_what_was_handed_out_is_an_invariant_error() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    with pytest.raises(InvariantError, match="applied 5, but 1 was applied and 1 handed out"):
        cluster[1].applied(5)


def test_nothing_that_was_acknowledged_is_lost_in_a_crash() -> None:
    for seed in range(40):
        generator = random.Random(seed)
        cluster = Cluster(3)
        cluster.elect(1)
        for number in range(30):
            for member in cluster.members.values():
                member.disk_stopped = generator.random() < 0.5
                if member.unwritten and not member.disk_stopped:
                    member.write(len(member.unwritten))
            leader = cluster.wait_for_leader()
            cluster.propose(leader, b"%d" % number)
            if generator.random() < 0.15:
                committed = {e.index: e for m in cluster.members.values() for e in m.state}
                victim = generator.randrange(1, 4)
                cluster.crash(victim)
                cluster.restart(victim)
                for member in cluster.members.values():
                    member.disk_stopped = False
                    member.write(len(member.unwritten))
                cluster.tick(30)
                new = cluster.members[cluster.wait_for_leader()]
                for index, entry in committed.items():
                    assert new.node.log.entries(index, 0, index + 1) == [entry], f"seed {seed}: entry {index} is lost"


def test_has_ready_says_what_ready_will() -> None:
    node, _ = new_node((1,))
    assert not node.has_ready()
    node.campaign()
    assert node.has_ready()
    while node.has_ready():
        node.persisted(node.ready().number)
    node.propose(make_batch(1, 1, b"x"))
    assert node.has_ready()
    while node.has_ready():
        node.persisted(node.ready().number)
    empty = node.ready()
    assert not any(empty[1:])
