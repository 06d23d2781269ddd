"""Log replication: consistency, back-off, pipelining, limits, and what is committed (replication.py, follower.py)."""

from __future__ import annotations

import random

import pytest

from fastkv.raft import Config, Entry, EntryKind, InvariantError, Kind, Message, Node, Role, make_batch
from fastkv.raft.progress import Pace
from raft.harness import Cluster, storage_with


def values(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def append(to: int, sender: int, term: int, index: int, log_term: int, terms: list[int], commit: int = 0) -> Message:
    entries = tuple(Entry(t, index + i, EntryKind.EMPTY, b"") for i, t in enumerate(terms, 1))
    return Message(Kind.APPEND, to, sender, term, index, log_term, commit, entries)


def follower(terms: list[int], **limits: int) -> Node:
    return Node(Config(1, **limits), storage_with(terms, (1, 2, 3), term=max(terms, default=0)), random.Random(1))


def answers(node: Node) -> list[Message]:
    messages = []
    while node.has_ready():
        ready = node.ready()
        node.persisted(ready.number)
        messages += ready.messages + ready.messages_after_persist
    return messages


def log_terms(node: Node) -> list[int]:
    return [node.log.term(index) for index in range(1, node.log.last_index + 1)]


# -- the whole way --------------------------------------------------------------------------------------------
def test_what_is_proposed_is_applied_by_all_in_order() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(20):
        cluster.propose(1, b"%d" % number)
    assert all(cluster.values(id) == values(*range(20)) for id in (1, 2, 3))


def test_followers_learn_the_commit_index_without_waiting_for_a_heartbeat() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.HEARTBEAT)
    cluster.propose(1, b"x")
    assert cluster.values(2) == cluster.values(3) == [b"x"]


def test_a_majority_is_enough_and_less_is_not() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster.propose(1, b"x")
    assert cluster.values(1) == [b"x"]
    cluster.isolate(3)
    cluster.propose(1, b"y")
    assert cluster.values(1) == [b"x"]


def test_learners_get_everything_and_count_for_nothing() -> None:
    cluster = Cluster(3, learners=(4, 5))
    cluster.elect(1)
    cluster.propose(1, b"x")
    assert cluster.values(4) == cluster.values(5) == [b"x"]
    cluster.isolate(2, 3)
    cluster.propose(1, b"y")
    assert cluster.values(1) == cluster.values(4) == [b"x"]


def test_a_follower_that_was_away_catches_up() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(50):
        cluster.propose(1, b"%d" % number)
    cluster.heal()
    cluster.tick(2)
    assert cluster.values(3) == values(*range(50))


def test_no_append_waits_for_the_answer_to_the_one_before() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    assert cluster[2].log.last_index == 11
    assert len(cluster[1].progress[2].inflights) == 10


def test_all_that_gathers_between_two_readys_goes_in_one_append() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.log.clear()
    for number in range(10):
        cluster.propose(1, b"%d" % number, deliver=False)
    cluster.deliver()
    assert [len(m.entries) for m in cluster.sent(Kind.APPEND, to=2)] == [10, 0]


def test_appends_that_come_in_the_wrong_order_are_sorted_out() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    generator = random.Random(5)
    for number in range(60):
        cluster.propose(1, b"%d" % number, deliver=False)
        cluster.collect()
        if number % 6 == 5:
            shuffled = list(cluster.wire)
            generator.shuffle(shuffled)
            cluster.wire.clear()
            cluster.wire.extend(shuffled + shuffled[:3])
            cluster.deliver()
    cluster.tick(3)
    assert all(cluster.values(id) == values(*range(60)) for id in (1, 2, 3))


@pytest.mark.parametrize("seed", range(12))
def test_lost_repeated_and_late_messages_only_cost_time(seed: int) -> None:
    generator = random.Random(seed)
    cluster = Cluster(3, max_inflight_messages=4, max_message_bytes=60)
    cluster.elect(1)
    cluster.drop(lambda m: generator.random() < 0.3 and m.kind in (Kind.APPEND, Kind.APPEND_RESPONSE))
    for number in range(40):
        cluster.propose(1, b"%d" % number)
        if generator.random() < 0.2 and cluster.log:
            cluster.wire.extend(generator.choices(cluster.log, k=3))
            cluster.deliver()
    cluster.heal()
    cluster.tick(12)
    assert cluster[1].is_leader
    assert all(cluster.values(id) == values(*range(40)) for id in (1, 2, 3))


def test_a_lost_tail_is_found_by_the_next_heartbeat() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind is Kind.APPEND and m.to == 3)
    cluster.propose(1, b"x")
    cluster.rules.remove(rule)
    cluster.tick(2, 1)
    assert cluster.values(3) == [b"x"]


# -- limits ---------------------------------------------------------------------------------------------------
def test_inflight_appends_are_limited_by_count() -> None:
    cluster = Cluster(3, max_inflight_messages=3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE and m.sender == 2)
    cluster.log.clear()
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    assert len([m for m in cluster.sent(Kind.APPEND, to=2) if m.entries]) == 3
    cluster.rules.remove(rule)
    cluster.tick(2)
    assert cluster.values(2) == values(*range(10))


def test_inflight_appends_are_limited_by_bytes() -> None:
    cluster = Cluster(3, max_inflight_bytes=300)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE and m.sender == 2)
    cluster.log.clear()
    for _ in range(10):
        cluster.propose(1, bytes(84))  # 100 bytes with its header
    assert len([m for m in cluster.sent(Kind.APPEND, to=2) if m.entries]) == 3
    assert cluster[1].progress[2].inflight_bytes == 300


def test_a_full_window_whose_messages_were_all_lost_recovers() -> None:
    cluster = Cluster(3, max_inflight_messages=3)
    cluster.elect(1)
    rule = cluster.drop(lambda m: m.kind is Kind.APPEND and m.to == 2)
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    cluster.rules.remove(rule)
    cluster.tick(3, 1)
    assert cluster.values(2) == values(*range(10))


def test_an_append_holds_at_most_the_configured_bytes_but_one_entry_at_least() -> None:
    cluster = Cluster(3, max_message_bytes=250)
    cluster.elect(1)
    cluster.log.clear()
    for size in (84, 84, 84, 584, 84):
        cluster.propose(1, bytes(size), deliver=False)
    cluster.deliver()
    assert [len(m.entries) for m in cluster.sent(Kind.APPEND, to=2) if m.entries] == [2, 1, 1, 1]


def test_a_probe_is_one_message_until_it_is_answered() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].report_unreachable(2)
    assert cluster[1].progress[2].pace is Pace.PROBE
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE and m.sender == 2)
    cluster.log.clear()
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    assert len(cluster.sent(Kind.APPEND, to=2)) == 1
    cluster.heal()
    cluster.tick(2)
    assert cluster[1].progress[2].pace is Pace.REPLICATE and cluster.values(2) == values(*range(5))


def test_committed_entries_are_handed_out_in_bounded_pieces() -> None:
    cluster = Cluster(1, max_committed_bytes=250)
    cluster.elect(1)
    member = cluster.members[1]
    member.apply_stopped = True
    member.readies.clear()
    for _ in range(6):
        cluster.propose(1, bytes(84), deliver=False)
    cluster.deliver()
    assert [len(r.committed) for r in member.readies if r.committed] == [2, 2, 2]


def test_no_more_is_handed_out_while_too_much_waits_to_be_applied() -> None:
    cluster = Cluster(1, max_committed_bytes=100, max_applying_bytes=250)
    cluster.elect(1)
    member = cluster.members[1]
    member.apply_stopped = True
    for _ in range(10):
        cluster.propose(1, bytes(84))
    assert len(member.unapplied) == 3 and cluster[1].log.commit == 11
    member.apply_stopped = False
    member.apply()
    cluster.deliver()
    assert len(member.values()) == 10


# -- the consistency check (§5.3) -----------------------------------------------------------------------------
def test_an_append_without_the_entry_before_it_is_refused() -> None:
    node = follower([1, 1])
    node.step(append(1, 2, 3, 5, 2, [3]))
    (answer,) = answers(node)
    assert answer.reject and (answer.index, answer.hint, answer.log_term) == (5, 2, 1)


def test_conflicting_entries_are_replaced_and_what_follows_them_goes() -> None:
    node = follower([1, 1, 2, 2, 2])
    node.step(append(1, 2, 4, 2, 1, [4]))
    assert log_terms(node) == [1, 1, 4]
    (answer,) = answers(node)
    assert not answer.reject and answer.index == 3


def test_a_late_append_does_not_cut_off_what_came_after_it() -> None:
    node = follower([1, 1, 1, 1, 1])
    node.step(append(1, 2, 1, 1, 1, [1]))
    assert log_terms(node) == [1, 1, 1, 1, 1]
    (answer,) = answers(node)
    assert answer.index == 2, "it acknowledges what the message said, not what it happens to hold"


def test_an_append_below_the_commit_index_is_answered_with_the_commit_index() -> None:
    node = follower([1, 1, 1])
    node.step(append(1, 2, 1, 3, 1, [], commit=3))
    answers(node)
    node.step(append(1, 2, 1, 0, 0, [1]))
    (answer,) = answers(node)
    assert answer.index == 3 and not answer.reject


def test_an_append_that_begins_below_the_commit_index_still_brings_its_news() -> None:
    node = follower([1, 1, 1])
    node.step(append(1, 2, 1, 3, 1, [], commit=2))
    answers(node)
    node.step(append(1, 2, 1, 0, 0, [1, 1, 1, 1, 1]))
    (answer,) = answers(node)
    assert answer.index == 5 and node.log.last_index == 5


def test_the_commit_index_never_passes_what_the_append_has_confirmed() -> None:
    node = follower([1, 1, 1, 1])
    node.step(append(1, 2, 2, 1, 1, [1], commit=4))
    assert node.log.commit == 2, "entries 3 and 4 may not be the leader's"


@pytest.mark.parametrize(
    ("leader", "own", "rounds"),
    [
        # The leader's log, the follower's, and how many refusals it takes at most: a whole term is skipped each time.
        ([1, 1, 1, 3, 3, 3, 3, 3, 3, 3], [1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2], 2),
        ([1, 2, 2, 2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 2),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 5], [1, 1, 2, 2, 3, 3, 4, 4, 4, 4], 2),
        ([1] * 9 + [5], [1, 1], 1),
        ([2, 2, 2, 5], [1, 1, 1, 1], 1),
    ],
)
def test_back_off_skips_whole_terms_on_both_sides(leader: list[int], own: list[int], rounds: int) -> None:
    cluster = Cluster(3)
    for id, terms in ((1, leader), (2, leader), (3, own)):
        cluster.members[id].storage = storage_with(terms, (1, 2, 3), term=max(leader))
        cluster.restart(id)
    cluster.elect(1)
    cluster.tick(3)
    refusals = [m for m in cluster.log if m.kind is Kind.APPEND_RESPONSE and m.sender == 3 and m.reject]
    assert len(refusals) <= rounds
    assert log_terms(cluster[3]) == log_terms(cluster[1]) == [*leader, max(leader) + 1]


@pytest.mark.parametrize(
    "own",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],  # a: one missing
        [1, 1, 1, 4],  # b: many missing
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],  # c: one too many
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],  # d: two of a later term
        [1, 1, 1, 4, 4, 4, 4],  # e
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],  # f
    ],
)
def test_every_log_of_figure_7_is_brought_in_line(own: list[int]) -> None:
    leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    cluster = Cluster(3)
    for id, terms in ((1, leader), (2, leader), (3, own)):
        cluster.members[id].storage = storage_with(terms, (1, 2, 3), term=7)
        cluster.restart(id)
    cluster.elect(1)
    cluster.tick(3)
    assert log_terms(cluster[3]) == [*leader, 8]


def test_a_stale_refusal_does_not_move_a_replicating_follower_back() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    progress = cluster[1].progress[2]
    before = (progress.match, progress.next, progress.pace)
    cluster[1].step(Message(Kind.APPEND_RESPONSE, 1, 2, 1, 3, 1, reject=True, hint=1))
    assert (progress.match, progress.next, progress.pace) == before


# -- what is committed (§5.4.2) -------------------------------------------------------------------------------
def test_figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    # (a)-(b): S1 led term 2 and got entry 2 to S2; S5 led term 3 and has another entry 2. (c): S1 leads term 4 and
    # brings its entry 2 of term 2 to S3, a majority, before its no-op of term 4 gets anywhere.
    cluster = Cluster(5, max_message_bytes=0, pre_vote=False, check_quorum=False)
    for id, terms in ((1, [1, 2]), (2, [1, 2]), (3, [1]), (4, [1]), (5, [1, 3])):
        cluster.members[id].storage = storage_with(terms, range(1, 6), term=3)
        cluster.restart(id)
    cluster.drop(lambda m: any(entry.term == 4 for entry in m.entries) and cluster[m.to].log.matches(2, 2))
    cluster.isolate(5)
    cluster.elect(1)
    cluster.tick(3, 1)
    assert log_terms(cluster[3]) == log_terms(cluster[2]) == [1, 2]
    assert sum(cluster[1].progress[id].match >= 2 for id in range(1, 6)) >= 3
    assert cluster[1].log.commit == 0, "on a majority, and yet not committed"

    # (d): S1 fails, S5 is elected by S2, S3 and S4, and replaces the entry everywhere.
    cluster.crash(1)
    cluster.heal()
    cluster[5].campaign()  # Term 4 is taken.
    cluster.deliver()
    cluster.elect(5)
    assert all(log_terms(cluster[id]) == [1, 3, 5] for id in (2, 3, 4, 5))
    assert cluster[5].log.commit == 3


def test_figure_8_once_an_entry_of_the_own_term_is_on_a_majority_all_before_it_are_committed() -> None:
    cluster = Cluster(5)
    for id, terms in ((1, [1, 2]), (2, [1, 2]), (3, [1]), (4, [1]), (5, [1, 3])):
        cluster.members[id].storage = storage_with(terms, range(1, 6), term=3)
        cluster.restart(id)
    cluster.isolate(5, 4)
    cluster.elect(1)
    assert cluster[1].log.commit == 3
    cluster.crash(1)
    cluster.heal()
    cluster[5].campaign()
    cluster.deliver()
    assert cluster[5].role is not Role.LEADER, "(e): S5 cannot win any more"


def test_a_leader_does_not_count_itself_before_its_own_disk_has_the_entry() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.members[1].disk_stopped = True
    cluster.propose(1, b"x")
    assert cluster.members[2].storage.last_index() == 2, "sent before the own disk has it"
    assert cluster[1].log.commit == 1
    cluster.members[1].write(len(cluster.members[1].unwritten))
    cluster.deliver()
    assert cluster[1].log.commit == 2


def test_two_followers_commit_what_the_leaders_disk_has_not_but_it_applies_only_what_it_has() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.members[1].disk_stopped = True
    cluster.propose(1, b"x")
    assert cluster[1].log.commit == 2 and cluster.values(2) == [b"x"] and cluster.values(1) == []
    cluster.members[1].disk_stopped = False
    cluster.members[1].write(len(cluster.members[1].unwritten))
    cluster.deliver()
    assert cluster.values(1) == [b"x"]


def test_uncommitted_bytes_follow_what_is_proposed_and_committed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    rule = cluster.isolate(2, 3)
    for _ in range(3):
        cluster.propose(1, bytes(84))
    assert cluster[1].uncommitted_bytes == 300
    cluster.rules.remove(rule)
    cluster.tick(3)
    assert cluster[1].uncommitted_bytes == 0


# -- invariants -----------------------------------------------------------------------------------------------
def test_a_wiped_member_that_claims_its_old_place_is_an_invariant_error_on_it() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.members[3].storage = storage_with([], (1, 2, 3), term=0)
    cluster.restart(3)
    with pytest.raises(InvariantError, match=r"commit 2 is out of range: the log ends at 0"):
        cluster.tick(1, 1)


def test_replacing_a_committed_entry_is_an_invariant_error() -> None:
    node = follower([1, 1, 1])
    node.step(append(1, 2, 1, 3, 1, [], commit=3))
    with pytest.raises(InvariantError, match="entry 3 is committed with term 1"):
        node.step(append(1, 3, 5, 2, 1, [4]))


def test_an_acknowledgement_of_what_was_never_sent_is_an_invariant_error() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    with pytest.raises(InvariantError, match="its leader's log ends at 1"):
        cluster[1].step(Message(Kind.APPEND_RESPONSE, 1, 2, 1, 9))


def test_a_message_to_somebody_else_is_ignored() -> None:
    node = follower([1])
    node.step(append(2, 3, 9, 0, 0, [9]))
    assert node.term == 1 and not node.has_ready()


def test_entries_that_left_memory_are_read_from_the_storage() -> None:
    cluster = Cluster(3, tail_bytes=400)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(30):
        cluster.propose(1, b"%d" % number)
    assert cluster[1].log.offset > 10
    cluster.heal()
    cluster.tick(3)
    assert cluster.values(3) == values(*range(30))


def test_a_restarted_member_applies_again_from_its_applied_index() -> None:
    cluster = Cluster(3, tail_bytes=100)
    cluster.elect(1)
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    cluster.tick(1)
    cluster.crash(3)
    cluster.restart(3)
    assert cluster.values(3) == []
    cluster.deliver()
    assert cluster.values(3) == values(*range(10))
    assert make_batch(1, 1, b"0") == cluster.members[3].state[1].data
