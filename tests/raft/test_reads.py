"""ReadIndex (reads.py)."""

from __future__ import annotations

import pytest

from fastkv.raft import Kind, Message, ReadState, TooManyReads
from raft.harness import Cluster


def reads(cluster: Cluster, id: int) -> list[ReadState]:
    return cluster.members[id].reads


def test_a_single_member_answers_at_once() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster[1].read_index("a")
    assert cluster[1].ready().read_states == [ReadState("a", 2)]


def test_a_leader_answers_when_a_quorum_has_confirmed_it() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.isolate(1)
    cluster[1].read_index("a")
    cluster.deliver()
    assert reads(cluster, 1) == []
    cluster.rules.remove(rule)
    cluster.tick(1)
    assert reads(cluster, 1) == [ReadState("a", 1)]


def test_learners_confirm_nothing() -> None:
    cluster = Cluster(3, learners=(4, 5))
    cluster.elect(1)
    cluster.isolate(2, 3)
    cluster[1].read_index("a")
    cluster.tick(3, 1)
    assert reads(cluster, 1) == []


def test_followers_and_learners_ask_the_leader() -> None:
    cluster = Cluster(3, learners=(4,))
    cluster.elect(1)
    cluster.propose(1, b"x")
    for id in (2, 4):
        cluster[id].read_index(id)
        cluster.deliver()
        assert reads(cluster, id) == [ReadState(id, 2)]


def test_one_round_and_one_question_serve_all_that_wait() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.log.clear()
    for number in range(10):
        cluster[1].read_index(number)
        cluster[2].read_index(number)
    cluster.deliver()
    assert [state.context for state in reads(cluster, 1)] == [state.context for state in reads(cluster, 2)]
    assert [state.context for state in reads(cluster, 1)] == list(range(10))
    assert len(cluster.sent(Kind.READ_INDEX)) == 1
    assert len(cluster.sent(Kind.HEARTBEAT)) == 4, "a round for the leader's reads and one for the follower's"


def test_a_later_round_confirms_the_earlier_ones() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind is Kind.HEARTBEAT_RESPONSE)
    for number in range(3):
        cluster[1].read_index(number)
        cluster.deliver()
    cluster.rules.remove(rule)
    cluster[1].read_index(3)
    cluster.deliver()
    assert [state.context for state in reads(cluster, 1)] == [0, 1, 2, 3]


def test_the_answer_to_an_earlier_heartbeat_confirms_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster[1].read_index("a")
    cluster.collect()
    cluster[1].step(Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 1, context=0))
    cluster.deliver()
    assert reads(cluster, 1) == []


def test_a_leader_that_was_replaced_without_knowing_it_answers_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster[1].read_index("old")
    new = cluster.wait_for_leader(2, 3)
    cluster.propose(new, b"x")
    cluster[1].read_index("old too")
    cluster.deliver()
    assert reads(cluster, 1) == []
    cluster.heal()
    cluster.tick(3)
    assert [state.context for state in reads(cluster, 1)] == ["old", "old too"]
    assert all(state.index >= 3 for state in reads(cluster, 1)), "asked again of the new leader"


def test_reads_wait_until_the_leader_has_committed_in_its_own_term() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.isolate(1)
    for id in (2, 3):
        cluster[id].election_elapsed = 10  # The lease is over.
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    cluster.elect(2)
    cluster[2].read_index("a")
    cluster[3].read_index("b")
    cluster.deliver()
    assert reads(cluster, 2) == reads(cluster, 3) == []
    cluster.heal()
    cluster.tick(6)
    assert [state.index for state in (*reads(cluster, 2), *reads(cluster, 3))] == [3, 3]


def test_a_lost_question_is_asked_again() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind in (Kind.READ_INDEX, Kind.READ_INDEX_RESPONSE))
    for number in range(5):
        cluster[2].read_index(number)
        cluster.deliver()
    cluster.rules.remove(rule)
    cluster.log.clear()
    cluster.tick(6)
    assert [state.context for state in reads(cluster, 2)] == list(range(5))
    assert len(cluster.sent(Kind.READ_INDEX)) == 1, "all of them in one"


def test_a_repeated_or_late_answer_is_given_once() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].read_index("a")
    cluster.deliver()
    (answer,) = cluster.sent(Kind.READ_INDEX_RESPONSE)
    cluster.propose(1, b"x")
    cluster[2].read_index("b")
    cluster[2].step(answer)
    cluster.deliver()
    assert reads(cluster, 2) == [ReadState("a", 1), ReadState("b", 2)]


def test_an_answer_to_an_earlier_life_is_not_taken_for_the_present_ones() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].read_index("a")
    cluster.deliver()
    (old,) = cluster.sent(Kind.READ_INDEX_RESPONSE)
    cluster.propose(1, b"x")
    cluster.crash(2)
    cluster.restart(2)
    cluster.tick(1)
    cluster.drop(lambda m: m.kind is Kind.READ_INDEX)
    cluster[2].read_index("b")
    cluster.deliver()
    assert old.context in cluster[2].reads.asked
    cluster[2].step(old)
    cluster.deliver()
    assert reads(cluster, 2) == []


def test_reads_asked_without_a_leader_are_answered_when_there_is_one() -> None:
    cluster = Cluster(3)
    cluster[2].read_index("a")
    cluster.deliver()
    assert reads(cluster, 2) == []
    cluster.elect(1)
    cluster.tick(1)
    assert reads(cluster, 2) == [ReadState("a", 1)]


def test_a_followers_reads_survive_a_change_of_leader_even_to_itself() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.READ_INDEX)
    cluster[2].read_index("a")
    cluster.deliver()
    cluster.crash(1)
    cluster.wait_for_leader(2, 3)
    cluster.heal()
    cluster.tick(8)
    assert [state.context for state in reads(cluster, 2)] == ["a"]


def test_the_read_index_covers_everything_committed_before_the_question() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    for number in range(20):
        cluster.propose(1 + number % 5, b"x")
        highest = max(cluster[id].log.commit for id in cluster.members)
        cluster[1 + number % 3].read_index(number)
        cluster.deliver()
        assert cluster.members[1 + number % 3].reads[-1].index >= highest


def test_too_many_waiting_reads_are_refused() -> None:
    cluster = Cluster(3, max_pending_reads=2)
    cluster[1].read_index(1)
    cluster[1].read_index(2)
    with pytest.raises(TooManyReads):
        cluster[1].read_index(3)
    cluster.elect(1)
    cluster[1].read_index(3)
