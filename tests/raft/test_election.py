"""Terms, votes, pre-votes, the lease and CheckQuorum (election.py)."""

from __future__ import annotations

import random

import pytest

from fastkv.raft import Config, ConfState, HardState, InvariantError, Kind, MemoryStorage, Message, Node, Role
from raft.harness import Cluster, add, storage_with


def node_with(storage: MemoryStorage, **limits: int) -> Node:
    return Node(Config(1, **limits), storage, random.Random(1))


def drain(node: Node) -> list[Message]:
    """Everything the node would send once its disk is done; nothing is applied."""
    messages: list[Message] = []
    while node.has_ready():
        ready = node.ready()
        messages += ready.messages
        node.persisted(ready.number)
        messages += ready.messages_after_persist
    return messages


def test_a_member_that_hears_nothing_is_elected_within_two_timeouts() -> None:
    cluster = Cluster(3)
    cluster.tick(19, 1)
    assert cluster.leader() == 1
    assert {cluster[id].leader for id in (1, 2, 3)} == {1}
    assert {cluster[id].term for id in (1, 2, 3)} == {1}


def test_a_single_member_elects_itself_only_once_its_vote_is_durable() -> None:
    cluster = Cluster(1)
    cluster.members[1].disk_stopped = True
    cluster[1].campaign()
    cluster.deliver()
    assert cluster[1].role is Role.CANDIDATE
    cluster.members[1].disk_stopped = False
    cluster.members[1].write()
    cluster.deliver()
    assert cluster[1].is_leader


def test_a_candidates_requests_wait_for_its_own_term_and_vote_to_be_durable() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.members[1].disk_stopped = True
    cluster[1].campaign()
    cluster.deliver()
    assert not cluster.sent(Kind.VOTE)
    cluster.members[1].write()
    cluster.deliver()
    assert len(cluster.sent(Kind.VOTE)) == 2


def test_votes_of_others_without_the_own_durable_one_still_need_a_majority() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.drop(lambda m: m.kind is Kind.VOTE_RESPONSE)
    cluster[1].campaign()
    cluster.deliver()
    assert cluster[1].role is Role.CANDIDATE, "one vote of three"


def test_timeouts_are_spread_over_one_to_two_election_timeouts() -> None:
    seen = set()
    for seed in range(200):
        node = Node(Config(1), MemoryStorage(ConfState((1, 2, 3))), random.Random(seed))
        seen.add(node.election_timeout)
    assert seen == set(range(10, 20))


def test_the_same_seed_draws_the_same_timeouts() -> None:
    def timeouts(seed: int) -> list[int]:
        node = Node(Config(1), MemoryStorage(ConfState((1, 2, 3))), random.Random(seed))
        drawn = []
        for _ in range(200):
            node.tick()
            drawn.append(node.election_timeout)
        return drawn

    assert timeouts(7) == timeouts(7)
    assert timeouts(7) != timeouts(8)


def test_one_vote_a_term_and_it_survives_a_restart() -> None:
    storage = MemoryStorage(ConfState((1, 2, 3)))
    node = node_with(storage, pre_vote=False)
    node.step(Message(Kind.VOTE, 1, 2, 5, 0, 0))
    ready = node.ready()
    assert ready.must_sync and ready.hard_state == HardState(5, 2, 0)
    assert not ready.messages and [m.reject for m in ready.messages_after_persist] == [False]
    storage.persist(ready.hard_state, ready.entries)

    again = node_with(storage)
    again.step(Message(Kind.VOTE, 1, 3, 5, 0, 0))
    again.step(Message(Kind.VOTE, 1, 2, 5, 0, 0))
    assert [(m.to, m.reject) for m in drain(again)] == [(3, True), (2, False)]


@pytest.mark.parametrize(
    ("index", "term", "granted"),
    [(3, 3, False), (1, 4, True), (9, 2, False), (4, 3, True), (5, 3, True), (0, 0, False)],
)
def test_a_vote_goes_only_to_a_log_that_is_up_to_date(index: int, term: int, granted: bool) -> None:
    # §5.4.1; the own log ends with (4, term 3).
    node = node_with(storage_with([1, 1, 3, 3], (1, 2, 3), term=3))
    node.step(Message(Kind.VOTE, 1, 2, 9, index, term))
    (answer,) = drain(node)
    assert answer.kind is Kind.VOTE_RESPONSE and answer.reject is not granted


def test_a_pre_vote_changes_neither_term_nor_vote() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3))))
    node.step(Message(Kind.PRE_VOTE, 1, 2, 7, 0, 0))
    (answer,) = drain(node)
    assert (answer.kind, answer.term, answer.reject) == (Kind.PRE_VOTE_RESPONSE, 7, False)
    assert (node.term, node.vote) == (0, 0)


def test_two_pre_candidates_are_both_granted_but_one_wins() -> None:
    cluster = Cluster(3)
    cluster[1].campaign()
    cluster[2].campaign()
    cluster.deliver()
    cluster.wait_for_leader()


def test_without_pre_vote_a_member_that_was_cut_off_raises_the_term_and_with_it_does_not() -> None:
    for pre_vote, expected in ((False, 2), (True, 1)):
        cluster = Cluster(3, pre_vote=pre_vote)
        cluster.elect(1)
        cluster.isolate(3)
        cluster.tick(45)
        assert (cluster[3].term >= expected) and (cluster[3].term == 1) is pre_vote


def test_a_member_that_comes_back_does_not_unseat_the_leader_with_pre_vote() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(60)
    cluster.propose(1, b"meanwhile")
    cluster.heal()
    cluster.tick(30)
    assert cluster.leader() == 1 and cluster[1].term == 1
    assert cluster.values(3) == [b"meanwhile"]


def test_with_pre_vote_a_member_with_a_short_log_never_raises_the_term() -> None:
    cluster = Cluster(3, check_quorum=False)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(1, b"x")
    cluster.heal()
    cluster.drop(lambda m: (m.kind is Kind.APPEND and m.to == 3) or (m.kind is Kind.HEARTBEAT and m.to == 3))
    cluster.tick(60)
    assert cluster[3].term == 1 and cluster.leader() == 1


def test_who_heard_a_leader_ignores_candidates_until_an_election_timeout_has_passed() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    node = cluster[2]
    node.step(Message(Kind.VOTE, 2, 3, 9, 50, 5))
    assert not node.has_ready() and node.term == 1
    for _ in range(9):
        node.tick()
    node.step(Message(Kind.VOTE, 2, 3, 9, 50, 5))
    assert node.term == 1
    node.election_timeout = 20  # It must not campaign itself in this tick.
    node.tick()
    node.step(Message(Kind.VOTE, 2, 3, 9, 50, 5))
    assert node.term == 9 and node.vote == 3


def test_a_leader_ignores_candidates_while_it_has_its_quorum() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    cluster[1].step(Message(Kind.VOTE, 1, 3, 9, 50, 5))
    assert cluster[1].is_leader and cluster[1].term == 1


def test_without_check_quorum_there_is_no_lease() -> None:
    cluster = Cluster(3, pre_vote=False, check_quorum=False)
    cluster.elect(1)
    cluster[2].step(Message(Kind.VOTE, 2, 3, 9, 50, 5))
    assert cluster[2].term == 9


def test_a_leader_without_a_quorum_steps_down_within_two_election_timeouts() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.tick(20, 1)
    assert cluster[1].role is not Role.LEADER and cluster[1].leader == 0


def test_a_leader_with_a_bare_quorum_stays() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster.tick(60)
    assert cluster[1].is_leader and cluster[1].term == 1


def test_learners_do_not_keep_a_leader_in_office() -> None:
    cluster = Cluster(2, learners=(3, 4))
    cluster.elect(1)
    cluster.isolate(2)
    cluster.tick(20, 1)
    assert not cluster[1].is_leader


def test_without_check_quorum_a_leader_alone_stays_leader() -> None:
    cluster = Cluster(3, check_quorum=False)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.tick(60, 1)
    assert cluster[1].is_leader


def test_a_cut_off_leader_is_replaced_and_follows_when_it_comes_back() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    new = cluster.wait_for_leader(2, 3)
    cluster.propose(new, b"y")
    cluster.heal()
    cluster.tick(5)
    assert cluster[1].leader == new and cluster.values(1) == [b"y"]


def test_a_member_with_a_higher_term_and_a_leader_in_its_lease_get_together_again() -> None:
    # Without pre-vote a cut-off member has raised its term; the others ignore its votes, and it would ignore the leader
    # for ever if it did not tell it the higher term.
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(60)
    assert cluster[3].term > 1
    cluster.heal()
    leader = cluster.wait_for_leader(ticks=200)
    assert cluster[leader].term >= 2
    cluster.propose(leader, b"z")
    cluster.tick(3)
    assert all(cluster.values(id) == [b"z"] for id in (1, 2, 3))


def test_a_candidate_follows_the_leader_of_its_term() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.isolate(3)
    cluster[3].campaign()
    cluster.deliver()
    cluster[1].campaign()
    cluster.deliver()
    assert cluster[3].role is Role.CANDIDATE and cluster[3].term == cluster[1].term == 1
    cluster.heal()
    cluster.tick(1, 1)
    assert cluster[3].role is Role.FOLLOWER and cluster[3].leader == 1


def test_a_lost_election_makes_a_follower_at_once() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3))), pre_vote=False)
    node.campaign()
    drain(node)
    node.step(Message(Kind.VOTE_RESPONSE, 1, 2, 1, reject=True))
    assert node.role is Role.CANDIDATE
    node.step(Message(Kind.VOTE_RESPONSE, 1, 2, 1, reject=True))
    assert node.role is Role.CANDIDATE, "the same refusal twice counts once"
    node.step(Message(Kind.VOTE_RESPONSE, 1, 3, 1, reject=True))
    assert node.role is Role.FOLLOWER and node.term == 1


def test_a_vote_counts_once_and_only_from_voters() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3, 4, 5), (6, 7))), pre_vote=False)
    node.campaign()
    drain(node)
    for sender in (2, 2, 6, 7, 99):
        node.step(Message(Kind.VOTE_RESPONSE, 1, sender, 1))
    assert node.role is Role.CANDIDATE
    node.step(Message(Kind.VOTE_RESPONSE, 1, 3, 1))
    assert node.is_leader


def test_a_vote_of_an_earlier_term_does_not_count() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3))), pre_vote=False)
    for _ in range(2):
        node.campaign()
        drain(node)
    node.step(Message(Kind.VOTE_RESPONSE, 1, 2, 1))
    assert node.term == 2 and node.role is Role.CANDIDATE


def test_a_pre_vote_does_not_count_as_a_vote() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3, 4, 5))))
    node.campaign()
    drain(node)
    for sender in (2, 3):
        node.step(Message(Kind.PRE_VOTE_RESPONSE, 1, sender, 1))
    drain(node)
    assert node.role is Role.CANDIDATE and node.term == 1
    for sender in (2, 3, 4, 5):
        node.step(Message(Kind.PRE_VOTE_RESPONSE, 1, sender, 1))
    assert node.role is Role.CANDIDATE


def test_any_message_of_a_higher_term_is_followed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].step(Message(Kind.APPEND_RESPONSE, 1, 2, 8, reject=True))
    assert (cluster[1].term, cluster[1].role, cluster[1].leader, cluster[1].vote) == (8, Role.FOLLOWER, 0, 0)


def test_a_learner_and_a_stranger_never_campaign() -> None:
    for conf in (ConfState((2, 3), (1,)), ConfState((2, 3)), ConfState()):
        node = node_with(MemoryStorage(conf))
        for _ in range(100):
            node.tick()
        node.campaign()
        assert node.role is Role.FOLLOWER and node.term == 0


def test_a_learner_votes_when_asked_for_the_candidate_may_know_more() -> None:
    node = node_with(MemoryStorage(ConfState((2, 3), (1,))))
    node.step(Message(Kind.VOTE, 1, 2, 4, 0, 0))
    assert [m.reject for m in drain(node)] == [False]


def test_a_member_does_not_campaign_with_a_committed_change_of_membership_to_apply() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.members[2].apply_stopped = True
    cluster.change(1, add(4))
    cluster.tick(2)
    assert cluster[2].log.commit > cluster[2].log.applied
    cluster[2].campaign()
    assert cluster[2].role is Role.FOLLOWER
    cluster.members[2].apply_stopped = False
    cluster.members[2].apply()
    cluster[2].campaign()
    assert cluster[2].role is Role.PRE_CANDIDATE


def test_two_leaders_in_one_term_are_an_invariant_error() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    with pytest.raises(InvariantError, match="members 1 and 2 both lead in term 1"):
        cluster[1].step(Message(Kind.HEARTBEAT, 1, 2, 1))
    with pytest.raises(InvariantError, match="members 1 and 2 both lead in term 1"):
        cluster[3].step(Message(Kind.HEARTBEAT, 3, 2, 1))


def test_no_message_carries_a_term_that_is_not_durable_at_its_sender() -> None:
    node = node_with(MemoryStorage(ConfState((1, 2, 3))))
    node.step(Message(Kind.HEARTBEAT, 1, 2, 6))
    ready = node.ready()
    assert not ready.messages and [m.kind for m in ready.messages_after_persist] == [Kind.HEARTBEAT_RESPONSE]
    node.persisted(ready.number)
    node.step(Message(Kind.HEARTBEAT, 1, 2, 6))
    ready = node.ready()
    assert [m.kind for m in ready.messages] == [Kind.HEARTBEAT_RESPONSE] and not ready.must_sync


def test_entries_of_a_torn_write_keep_the_term_from_falling_behind_them() -> None:
    node = node_with(storage_with([1, 1, 4], (1, 2, 3), term=2))
    assert (node.term, node.vote) == (4, 0)


def test_a_disk_that_lost_committed_entries_is_refused_at_the_start() -> None:
    with pytest.raises(InvariantError, match="commit 5"):
        node_with(storage_with([1, 1], (1, 2, 3), term=1, commit=5))


def test_soft_state_tells_of_every_change_of_leader_role_and_term() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    new = cluster.wait_for_leader(2, 3)
    seen = [ready.soft_state for ready in cluster.members[5 - new].readies if ready.soft_state]
    assert [(s.term, s.leader) for s in seen if s.leader] == [(1, 1), (cluster[new].term, new)]
    assert any(s.leader == 0 for s in seen[1:]), "that there was no leader in between is told too"
