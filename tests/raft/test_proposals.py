"""Proposals: forwarding, limits, and what becomes of each (forwarding.py)."""

from __future__ import annotations

import random

import pytest

from fastkv.raft import DropReason, Entry, EntryKind, Kind, Message, ProposalDropped, make_batch
from fastkv.raft.forwarding import WINDOW
from raft.harness import Cluster, add


def test_a_followers_proposals_are_appended_in_order_and_known_by_their_origin() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(10):
        cluster.propose(2, b"%d" % number, deliver=False)
    cluster.deliver()
    assert cluster.values(1) == [b"%d" % number for number in range(10)]
    assert [e.data for e in cluster.members[3].state[1:]] == [make_batch(2, n + 1, b"%d" % n) for n in range(10)]
    assert cluster[2].proposals.open == {}


def test_what_gathers_between_two_readys_is_forwarded_in_one_message() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(10):
        cluster.propose(2, b"x", deliver=False)
    cluster.deliver()
    assert [len(m.entries) for m in cluster.sent(Kind.PROPOSE)] == [10]


def test_learners_forward_too() -> None:
    cluster = Cluster(3, learners=(4,))
    cluster.elect(1)
    cluster.propose(4, b"x")
    assert cluster.values(1) == [b"x"]


def test_without_a_leader_a_proposal_is_dropped_and_has_no_effect() -> None:
    cluster = Cluster(3)
    with pytest.raises(ProposalDropped, match="there is no leader") as caught:
        cluster.propose(1, b"x")
    assert caught.value.reason is DropReason.NO_LEADER
    assert cluster[1].proposals.open == {}


def test_a_proposal_of_somebody_else_or_of_a_number_that_is_open_is_a_mistake() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    with pytest.raises(ValueError, match="member 2, sequence 1"):
        cluster[1].propose(make_batch(2, 1))
    cluster[1].propose(make_batch(1, 5))
    with pytest.raises(ValueError, match="sequence 5"):
        cluster[1].propose(make_batch(1, 5))


@pytest.mark.parametrize("seed", range(10))
def test_forwarding_over_a_bad_network_appends_each_batch_once_and_in_order(seed: int) -> None:
    generator = random.Random(seed)
    cluster = Cluster(3, max_message_bytes=70)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind in (Kind.PROPOSE, Kind.PROPOSE_RESPONSE) and generator.random() < 0.4)
    seen = 0
    for number in range(40):
        cluster.propose(2, b"%d" % number, deliver=False)
        cluster.collect()
        if number % 3 == 0:
            forwarded = [m for m in cluster.log if m.kind is Kind.PROPOSE]
            cluster.wire.extend(generator.sample(forwarded, min(3, len(forwarded))))
            mixed = list(cluster.wire)
            generator.shuffle(mixed)
            cluster.wire.clear()
            cluster.wire.extend(mixed)
            cluster.deliver()
        assert len(cluster.values(1)) >= seen
        seen = len(cluster.values(1))
    cluster.heal()
    cluster.tick(6)
    assert cluster.values(1) == cluster.values(2) == [b"%d" % number for number in range(40)]


def test_a_gap_is_filled_at_once_and_a_loss_at_the_end_after_two_heartbeats() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind is Kind.PROPOSE)
    cluster.propose(2, b"a")
    cluster.rules.remove(rule)
    cluster.propose(2, b"b")
    assert cluster.values(2) == [b"a", b"b"]
    rule = cluster.drop(lambda m: m.kind is Kind.PROPOSE)
    cluster.propose(2, b"c")
    cluster.rules.remove(rule)
    cluster.tick(3)
    assert cluster.values(2) == [b"a", b"b", b"c"]


def test_what_an_earlier_life_forwarded_is_not_taken_for_the_present_ones() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(2, b"old")
    old = cluster.sent(Kind.PROPOSE)
    cluster.crash(2)
    cluster.restart(2)
    cluster.tick(1)
    cluster.propose(2, b"new")
    cluster.wire.extend(old)
    cluster.deliver()
    assert cluster.values(1) == [b"old", b"new"]


def test_a_batch_forwarded_in_an_earlier_term_is_not_appended_in_a_later_one() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.PROPOSE)
    cluster.propose(2, b"x")
    late = cluster[2].proposals.queue[0]
    cluster.rules.clear()
    cluster[1].transfer_leadership(3)
    cluster.deliver()
    assert cluster.leader() == 3
    assert cluster.members[2].lost == [1]
    cluster[3].step(Message(Kind.PROPOSE, 3, 2, 1, 0, entries=(Entry(1, 1, EntryKind.NORMAL, late.data),), session=1))
    cluster.deliver()
    assert cluster.values(3) == []


# -- fate -----------------------------------------------------------------------------------------------------
def test_a_batch_that_never_reached_the_leader_is_lost_when_the_next_one_commits() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(1)
    sequence = cluster.propose(2, b"x")
    assert cluster.members[2].lost == []
    leader = cluster.wait_for_leader(2, 3)
    assert cluster.members[2].lost == [sequence]
    cluster.propose(2, b"x")
    assert cluster.values(leader) == [b"x"]


def test_a_batch_that_the_new_leader_has_commits_and_is_not_lost() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    sequence = cluster.propose(2, b"x")
    cluster.crash(1)
    cluster.heal()
    cluster.wait_for_leader(2, 3)
    assert cluster.members[2].lost == [] and sequence not in cluster[2].proposals.open
    assert cluster.values(2) == cluster.values(3) == [b"x"]


def test_a_deposed_leader_learns_which_of_its_own_proposals_are_lost() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    kept = cluster.propose(1, b"kept")
    cluster.isolate(1)
    lost = [cluster.propose(1, b"lost"), cluster.propose(1, b"lost too")]
    cluster.wait_for_leader(2, 3)
    cluster.heal()
    cluster.tick(3)
    assert cluster.members[1].lost == lost and kept not in cluster.members[1].lost
    assert cluster.values(1) == [b"kept"] and cluster[1].proposals.open == {}


def test_a_snapshot_leaves_the_fate_of_open_proposals_uncertain() -> None:
    cluster = Cluster(3, tail_bytes=0)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND and m.to == 2)
    sequence = cluster.propose(2, b"x")
    cluster.members[1].snapshot()
    cluster.heal()
    cluster.tick(3)
    assert cluster.members[2].uncertain == [sequence] and cluster.members[2].lost == []
    assert cluster.values(2) == [b"x"]


@pytest.mark.parametrize("seed", range(25))
def test_every_proposal_has_exactly_one_fate_and_lost_ones_never_commit(seed: int) -> None:
    generator = random.Random(seed)
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: generator.random() < 0.1)
    proposed: dict[bytes, tuple[int, int]] = {}
    for number in range(60):
        id, data = generator.randrange(1, 4), b"%d" % number
        try:
            proposed[data] = (id, cluster.propose(id, data))
        except ProposalDropped:
            continue
        finally:
            if generator.random() < 0.15:
                cluster.rules[1:] = []
                cluster.isolate(generator.randrange(1, 4))
            cluster.tick(generator.randrange(4))
    cluster.heal()
    leader = cluster.wait_for_leader()
    cluster.propose(leader, b"end")
    cluster.tick(30)
    applied = cluster.values(1)
    assert len(set(applied)) == len(applied)
    assert cluster.values(2) == cluster.values(3) == applied
    for data, (id, sequence) in proposed.items():
        assert sequence not in cluster[id].proposals.open
        assert (data in applied) is (sequence not in cluster.members[id].lost), (seed, data)


# -- limits ---------------------------------------------------------------------------------------------------
def test_a_leader_takes_no_more_than_the_uncommitted_limit_but_always_one() -> None:
    cluster = Cluster(3, max_uncommitted_bytes=250)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose(1, bytes(1000))
    with pytest.raises(ProposalDropped) as caught:
        cluster.propose(1, b"x")
    assert caught.value.reason is DropReason.TOO_MUCH_UNCOMMITTED
    cluster.heal()
    cluster.tick(2)
    cluster.propose(1, b"y")
    assert len(cluster.values(2)) == 2


def test_a_follower_holds_no_more_than_the_uncommitted_limit() -> None:
    cluster = Cluster(3, max_uncommitted_bytes=250)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.PROPOSE)
    cluster.propose(2, bytes(84))
    cluster.propose(2, bytes(84))
    with pytest.raises(ProposalDropped, match="too many bytes"):
        cluster.propose(2, bytes(84))


def test_forwarded_proposals_wait_while_the_leader_has_no_room() -> None:
    cluster = Cluster(3, max_uncommitted_bytes=250)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    for id in (2, 2, 3, 3):
        cluster.propose(id, bytes(84))
    assert cluster[1].uncommitted_bytes == 200
    cluster.heal()
    cluster.tick(6)
    assert len(cluster.values(1)) == 4


def test_forwarded_proposals_wait_out_a_transfer_that_fails() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.TIMEOUT_NOW)
    cluster[1].transfer_leadership(3)
    cluster.deliver()
    cluster.propose(2, b"x")
    assert cluster.values(1) == []
    cluster.tick(15)
    assert cluster.leader() == 1 and cluster[1].term == 1 and cluster.values(1) == [b"x"]


def test_what_a_leader_cannot_take_is_not_sent_again_for_every_refusal() -> None:
    # To a leader that takes nothing every message behind the first is a gap. Answering each refusal with all of them
    # again would multiply them with every round trip.
    cluster = Cluster(3, max_message_bytes=0)
    cluster.elect(1)
    cluster.isolate(3)
    cluster[1].transfer_leadership(3)
    for number in range(10):
        cluster.propose(2, b"%d" % number, deliver=False)
        cluster.members[2].work()
    cluster.deliver()
    assert len(cluster.sent(Kind.PROPOSE)) <= 20
    cluster.tick(2)
    assert len(cluster.sent(Kind.PROPOSE)) <= 40


def test_a_refused_change_of_membership_that_was_forwarded_is_lost() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    cluster.members[1].apply_stopped = True
    cluster.change(2, add(4))
    sequence = cluster.change(2, add(5))
    cluster.members[1].apply_stopped = False
    cluster.members[1].apply()
    cluster.deliver()
    assert cluster.members[2].lost == [sequence]
    assert cluster[1].conf.voters == (1, 2, 3, 4)


def test_only_a_window_of_the_queue_is_on_its_way_and_sent_again() -> None:
    cluster = Cluster(3, max_message_bytes=100)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.PROPOSE_RESPONSE)
    for _ in range(20):
        cluster.propose(2, bytes(84), deliver=False)  # 100 bytes with its header
    cluster.deliver()
    assert len(cluster.sent(Kind.PROPOSE)) == WINDOW
    cluster.tick(2)
    assert len(cluster.sent(Kind.PROPOSE)) == 2 * WINDOW
    cluster.heal()
    cluster.tick(2)
    assert len(cluster.values(1)) == 20 and cluster[2].proposals.flying_bytes == 0


def test_a_forwarded_change_of_membership_that_is_none_has_no_effect() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    entries = tuple(Entry(1, n, EntryKind.CONF_CHANGE, data) for n, data in ((1, b""), (2, make_batch(2, 5, b"junk"))))
    cluster[1].step(Message(Kind.PROPOSE, 1, 2, 1, 0, entries=entries, session=1))
    cluster.deliver()
    assert [entry.kind for entry in cluster.members[3].state] == [EntryKind.EMPTY] * 3
    assert cluster[3].conf.voters == (1, 2, 3)
