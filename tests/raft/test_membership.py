"""Changes of membership, one at a time and joint, and what they do to a running group (membership.py)."""

from __future__ import annotations

import pytest

from fastkv.raft import (
    Change,
    ChangeKind,
    ConfChange,
    ConfChangeRefused,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    InvariantError,
    Kind,
    Role,
    Transition,
    bootstrap,
    make_batch,
)
from fastkv.raft.membership import changed
from raft.harness import Cluster, add, learn, remove

EXPLICIT = Transition.JOINT_EXPLICIT
LEAVE = ConfChange()
THREE = ConfState((1, 2, 3))


# -- configurations -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("conf", "change", "expected"),
    [
        (THREE, add(4), ConfState((1, 2, 3, 4))),
        (THREE, remove(3), ConfState((1, 2))),
        (THREE, learn(4), ConfState((1, 2, 3), (4,))),
        (THREE, learn(5, 4), ConfState((1, 2, 3), (4, 5))),
        (ConfState((1, 2), (3,)), add(3), ConfState((1, 2, 3))),
        (THREE, learn(3), ConfState((1, 2), (3,))),
        (THREE, add(3), THREE),
        (THREE, remove(9), THREE),
        (ConfState((1,), (2,)), remove(2), ConfState((1,))),
        (THREE, add(4, 5), ConfState((1, 2, 3, 4, 5), (), (1, 2, 3), (), True)),
        (THREE, add(4, transition=EXPLICIT), ConfState((1, 2, 3, 4), (), (1, 2, 3), (), False)),
        (THREE, learn(3, transition=Transition.JOINT_AUTO), ConfState((1, 2), (), (1, 2, 3), (3,), True)),
        (THREE, learn(2, 3, 4), ConfState((1,), (4,), (1, 2, 3), (2, 3), True)),
        (ConfState((1, 2), (5,), (1, 2, 3), (3,), True), LEAVE, ConfState((1, 2), (3, 5))),
        (ConfState((1,), (4,)), learn(4), ConfState((1,), (4,))),
    ],
)
def test_what_a_change_makes_of_a_configuration(conf: ConfState, change: ConfChange, expected: ConfState) -> None:
    assert changed(conf, change) == expected


def test_a_member_moved_twice_in_one_change_ends_where_the_last_step_put_it() -> None:
    steps = (Change(ChangeKind.ADD_LEARNER, 3), Change(ChangeKind.ADD_VOTER, 3))
    assert changed(THREE, ConfChange(steps)) == THREE
    steps = (Change(ChangeKind.REMOVE, 3), Change(ChangeKind.ADD_LEARNER, 3))
    assert changed(THREE, ConfChange(steps)) == ConfState((1, 2), (3,))


@pytest.mark.parametrize(
    ("conf", "change", "why"),
    [
        (ConfState((1,)), remove(1), "the last voter"),
        (ConfState((1,), (2,)), learn(1), "the last voter"),
        (THREE, remove(1, 2, 3), "the last voter"),
        (THREE, LEAVE, "not a joint one"),
        (ConfState((1, 2), (), (1, 2, 3)), add(4), "must be left first"),
        (THREE, add(0), "nobody's id"),
    ],
)
def test_impossible_changes_are_refused(conf: ConfState, change: ConfChange, why: str) -> None:
    with pytest.raises(ConfChangeRefused, match=why):
        changed(conf, change)


# -- one at a time --------------------------------------------------------------------------------------------
def test_a_member_is_added_and_counts_from_then_on() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.propose(1, b"before")
    cluster.change(1, add(4))
    cluster.tick(2)
    assert all(cluster[id].conf.voters == (1, 2, 3, 4) for id in (1, 2, 3, 4))
    assert cluster.values(4) == [b"before"]
    cluster.isolate(3, 4)
    cluster.propose(1, b"after")
    assert cluster.values(1) == [b"before"], "two of four are no majority"


def test_a_change_counts_when_it_is_applied_and_not_before() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    for member in cluster.members.values():
        member.apply_stopped = True
    cluster.change(1, add(4))
    assert cluster[1].log.commit == 2 and cluster[1].conf == THREE
    assert 4 not in cluster[1].progress
    cluster.members[1].apply()
    assert cluster[1].conf.voters == (1, 2, 3, 4) and cluster[2].conf == THREE


def test_a_member_is_removed_and_no_longer_needed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.change(1, remove(3))
    cluster.isolate(2)
    cluster.propose(1, b"x")
    assert cluster.values(1) == [], "two of two"
    cluster.heal()
    cluster.tick(2)
    assert cluster.values(1) == cluster.values(2) == [b"x"]


def test_only_one_change_may_be_unapplied() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    cluster.members[1].apply_stopped = True
    cluster.change(1, add(4))
    with pytest.raises(ConfChangeRefused, match="may be unapplied at 2"):
        cluster.change(1, add(5))
    cluster.members[1].apply_stopped = False
    cluster.members[1].apply()
    cluster.change(1, add(5))
    assert cluster[1].conf.voters == (1, 2, 3, 4, 5)


def test_a_new_leader_takes_no_change_before_it_has_applied_what_it_took_over() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    cluster.change(1, add(4))  # Uncommitted, but on all three.
    cluster[2].campaign()
    cluster.crash(1)
    cluster.heal()
    cluster.drop(lambda m: m.kind is Kind.APPEND and m.to == 3)
    leader = cluster.wait_for_leader(2, 3)
    if leader == 2:
        with pytest.raises(ConfChangeRefused, match="unapplied"):
            cluster.change(2, add(5))
    cluster.heal()
    cluster.tick(3)
    cluster.change(leader, add(5))
    assert cluster[leader].conf.voters == (1, 2, 3, 4, 5)


def test_the_state_machine_may_refuse_a_change_and_the_configuration_stays() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    cluster.members[1].apply_stopped = True
    cluster.change(1, add(2))
    (entry,) = [e for e in cluster.members[1].unapplied if e.kind is EntryKind.CONF_CHANGE]
    assert cluster[1].apply_conf_change(entry, refuse=True) == ConfState((1,))
    cluster[1].applied(entry.index)
    assert cluster[1].conf == ConfState((1,))


def test_an_entry_that_is_no_change_cannot_be_applied_as_one() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    with pytest.raises(InvariantError, match="no unapplied change"):
        cluster[1].apply_conf_change(cluster.members[1].state[0])


def test_the_configuration_survives_a_restart_through_the_log() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.change(1, add(4))
    cluster.tick(2)
    cluster.crash(2)
    cluster.restart(2)
    cluster.deliver()
    assert cluster[2].conf.voters == (1, 2, 3, 4)


def test_a_group_grows_from_one_to_five_and_shrinks_back() -> None:
    cluster = Cluster(1, outside=(2, 3, 4, 5))
    cluster.elect(1)
    for id in (2, 3, 4, 5):
        cluster.change(1, add(id))
        cluster.tick(2)
        cluster.propose(id, b"%d" % id)
    assert cluster.values(5) == [b"2", b"3", b"4", b"5"]
    for id in (5, 4, 3, 2):
        cluster.change(1, remove(id))
        cluster.tick(2)
    assert cluster[1].conf == ConfState((1,))
    cluster.isolate(1)
    cluster.propose(1, b"alone")
    assert cluster.values(1)[-1] == b"alone"


# -- learners -------------------------------------------------------------------------------------------------
def test_a_learner_is_added_catches_up_and_is_promoted() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.change(1, learn(4))
    cluster.tick(2)
    assert cluster[1].progress[4].learner and cluster[1].progress[4].match == cluster[1].log.last_index
    cluster.change(1, add(4))
    assert not cluster[1].progress[4].learner and cluster[4].conf == ConfState((1, 2, 3, 4))
    cluster.crash(1)
    assert cluster.wait_for_leader(2, 3, 4)


def test_a_leader_made_a_learner_steps_down() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.change(1, learn(1))
    assert cluster[1].role is Role.FOLLOWER and cluster[1].conf == ConfState((2, 3), (1,))
    leader = cluster.wait_for_leader()
    cluster.propose(leader, b"x")
    cluster.tick(2)
    assert leader in (2, 3) and cluster.values(1) == [b"x"]


# -- removal --------------------------------------------------------------------------------------------------
def test_a_leader_that_removes_itself_hands_over_and_nobody_waits_for_a_timeout() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.change(1, remove(1))
    assert cluster[1].role is Role.FOLLOWER
    leader = cluster.leader()
    assert leader in (2, 3) and cluster[leader].conf == ConfState((2, 3))
    cluster.propose(leader, b"y")
    assert cluster.values(5 - leader) == [b"x", b"y"]


def test_a_leader_of_two_that_removes_itself_leaves_the_other_able_to_go_on() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    cluster.change(1, remove(1))
    cluster.crash(1)
    cluster.wait_for_leader(2)
    cluster.propose(2, b"x")
    assert cluster.values(2) == [b"x"]


def test_a_successor_that_has_not_applied_the_change_campaigns_as_soon_as_it_has() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for id in (2, 3):
        cluster.members[id].apply_stopped = True
    cluster.change(1, remove(1))
    assert not any(cluster[id].is_leader for id in (1, 2, 3))
    for id in (2, 3):
        cluster.members[id].apply_stopped = False
        cluster.members[id].apply()
    cluster.deliver()
    assert cluster.leader() in (2, 3)


def test_a_removed_member_that_does_not_know_it_disturbs_nobody() -> None:
    for limits in ({}, {"pre_vote": False}):
        cluster = Cluster(4, **limits)
        cluster.elect(1)
        cluster.isolate(4)
        cluster.change(1, remove(4))
        cluster.heal()
        cluster.drop(lambda m: m.to == 4)
        cluster.tick(80)
        assert cluster.leader() == 1 and cluster[1].term == 1, limits


def test_a_removed_member_does_not_campaign() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.change(1, remove(3))
    cluster.tick(2)
    assert cluster[3].conf == ConfState((1, 2))
    cluster.tick(60, 3)
    assert cluster[3].role is Role.FOLLOWER and cluster[3].term == 1


def test_removing_who_held_up_a_commit_commits() -> None:
    # Three of four are needed; with 4 gone two of three have it already.
    cluster = Cluster(4)
    cluster.elect(1)
    cluster.members[1].apply_stopped = True
    cluster.change(1, remove(4))
    cluster.isolate(3, 4)
    cluster.propose(1, b"x")
    assert cluster[1].log.commit == 2
    cluster.members[1].apply_stopped = False
    cluster.members[1].apply()
    cluster.deliver()
    assert cluster[1].log.commit == 3


# -- joint ----------------------------------------------------------------------------------------------------
def test_several_members_are_replaced_at_once_and_the_joint_configuration_leaves_itself() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    steps = (*add(4, 5).changes, *remove(2, 3).changes)
    cluster.change(1, ConfChange(steps))
    cluster.tick(3)
    assert all(cluster[id].conf == ConfState((1, 4, 5)) for id in (1, 4, 5))
    cluster.isolate(2, 3)
    cluster.propose(1, b"x")
    assert cluster.values(4) == cluster.values(5) == [b"x"]


def test_a_joint_configuration_needs_a_majority_of_both_halves() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    cluster.change(1, ConfChange((*add(4, 5).changes, *remove(2, 3).changes), EXPLICIT))
    cluster.tick(3)
    assert cluster[1].conf == ConfState((1, 4, 5), (), (1, 2, 3))
    for cut in ((4, 5), (2, 3)):
        rule = cluster.isolate(*cut)
        before = cluster[1].log.commit
        cluster.propose(1, b"x")
        assert cluster[1].log.commit == before, f"without {cut}"
        cluster[1].read_index(cut)
        cluster.tick(2)
        assert not any(state.context == cut for state in cluster.members[1].reads)
        cluster.rules.remove(rule)
        cluster.tick(2)
        assert cluster[1].log.commit == before + 1
    rule = cluster.isolate(3, 5)
    cluster.propose(1, b"y")
    assert cluster.values(1)[-1] == b"y", "two of each half"


def test_an_election_in_a_joint_configuration_needs_both_halves() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    cluster.change(1, ConfChange((*add(4, 5).changes, *remove(2, 3).changes), EXPLICIT))
    cluster.tick(3)
    cluster.crash(1)
    cluster.isolate(2, 3)
    cluster.tick(60)
    assert not any(cluster[id].is_leader for id in (2, 3, 4, 5))
    cluster.heal()
    assert cluster.wait_for_leader(2, 3, 4, 5)


def test_an_explicit_joint_configuration_stays_until_it_is_left() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.change(1, add(4, transition=EXPLICIT))
    cluster.tick(20)
    assert cluster[1].conf.voters_outgoing == (1, 2, 3)
    with pytest.raises(ConfChangeRefused, match="must be left first"):
        cluster.change(1, add(5))
    cluster.change(1, LEAVE)
    cluster.tick(1)
    assert all(cluster[id].conf == ConfState((1, 2, 3, 4)) for id in (1, 2, 3, 4))


def test_a_new_leader_leaves_the_joint_configuration_that_the_old_one_entered() -> None:
    cluster = Cluster(3, outside=(4, 5))
    cluster.elect(1)
    for member in cluster.members.values():
        member.apply_stopped = True
    cluster.change(1, add(4, 5))
    cluster.tick(1)
    cluster.crash(1)
    for id in (2, 3, 4, 5):
        cluster.members[id].apply_stopped = False
        cluster.members[id].apply()
    cluster.wait_for_leader(2, 3)
    cluster.tick(5)
    assert cluster[2].conf == cluster[3].conf == ConfState((1, 2, 3, 4, 5))


def test_a_voter_made_a_learner_in_a_joint_change_still_votes_outgoing() -> None:
    cluster = Cluster(3, outside=(4,))
    cluster.elect(1)
    cluster.change(1, ConfChange((*learn(2).changes, *add(4).changes), EXPLICIT))
    cluster.tick(2)
    assert cluster[1].conf == ConfState((1, 3, 4), (), (1, 2, 3), (2,))
    assert not cluster[1].progress[2].learner
    cluster.change(1, LEAVE)
    cluster.tick(2)
    assert cluster[1].conf == ConfState((1, 3, 4), (2,)) and cluster[1].progress[2].learner
    cluster.propose(1, b"x")
    assert cluster.values(2) == [b"x"]


def test_a_learner_promoted_and_a_voter_demoted_in_one_change() -> None:
    cluster = Cluster(3, learners=(4,))
    cluster.elect(1)
    cluster.change(1, ConfChange((*add(4).changes, *learn(3).changes)))
    cluster.tick(3)
    assert all(cluster[id].conf == ConfState((1, 2, 4), (3,)) for id in (1, 2, 3, 4))


def test_a_leader_outside_the_incoming_half_leads_until_it_is_left_and_then_steps_down() -> None:
    cluster = Cluster(3, outside=(4, 5, 6))
    cluster.elect(1)
    cluster.change(1, ConfChange((*add(4, 5, 6).changes, *remove(1, 2, 3).changes), EXPLICIT))
    cluster.tick(3)
    assert cluster[1].is_leader
    cluster.propose(1, b"x")
    assert cluster.values(6) == [b"x"]
    cluster.change(1, LEAVE)
    cluster.tick(2)
    assert not cluster[1].is_leader
    leader = cluster.wait_for_leader(4, 5, 6)
    cluster.propose(leader, b"y")
    assert cluster.values(4) == cluster.values(6) == [b"x", b"y"]


def test_the_transition_to_a_disjoint_group_leaves_by_itself() -> None:
    cluster = Cluster(3, outside=(4, 5, 6))
    cluster.elect(1)
    cluster.change(1, ConfChange((*add(4, 5, 6).changes, *remove(1, 2, 3).changes)))
    leader = cluster.wait_for_leader(4, 5, 6)
    assert cluster[leader].conf == ConfState((4, 5, 6))


# -- the beginning --------------------------------------------------------------------------------------------
def test_a_group_begins_with_its_members_in_the_log_and_who_joins_later_finds_them_there() -> None:
    hard_state, entries = bootstrap([add(1), add(2), add(3)])
    cluster = Cluster((), outside=(1, 2, 3, 4))
    for id in (1, 2, 3):
        cluster.members[id].storage.persist(hard_state, entries)
        cluster.restart(id)
    cluster.deliver()
    assert all(cluster[id].conf == THREE for id in (1, 2, 3))
    leader = cluster.wait_for_leader(1, 2, 3)
    assert cluster[leader].term == 2, "as etcd's first"
    cluster.propose(leader, b"x")
    cluster.change(leader, add(4))
    cluster.tick(2)
    assert cluster[4].conf == ConfState((1, 2, 3, 4)) and cluster.values(4) == [b"x"]


def test_a_group_of_one_begins_by_itself() -> None:
    cluster = Cluster((), outside=(1,))
    cluster.members[1].storage.persist(*bootstrap([add(1)]))
    cluster.restart(1)
    cluster.deliver()
    cluster.elect(1)
    cluster.propose(1, b"x")
    assert cluster.values(1) == [b"x"]


def test_who_is_refused_a_vote_is_told_what_is_committed() -> None:
    # Member 1 led, left the joint configuration and with it the leadership, and nobody heard of that. The others still
    # need its vote, but its log is longer, by an entry that can never be committed.
    cluster = Cluster((), outside=(1, 2, 3))
    _, entries = bootstrap([add(1), ConfChange((*add(2, 3).changes, *remove(1).changes)), LEAVE])
    never = Entry(1, 4, EntryKind.NORMAL, make_batch(1, 1, b"never"))
    for id, member in cluster.members.items():
        member.storage.persist(HardState(1, 0, 3 if id == 1 else 2), [*entries, never] if id == 1 else entries)
        member.start()
    cluster.tick(200)
    assert cluster.leader() in (2, 3)
    assert {cluster[id].conf for id in (1, 2, 3)} == {ConfState((2, 3))}
