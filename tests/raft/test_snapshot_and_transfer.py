"""Snapshots to the lagging, and handing leadership over (replication.py, follower.py, transfer.py)."""

from __future__ import annotations

import pytest

from fastkv.raft import (
    ConfState,
    DropReason,
    EntryKind,
    Kind,
    Message,
    ProposalDropped,
    Role,
    Snapshot,
    TransferRefused,
    Unavailable,
)
from fastkv.raft.progress import Pace
from raft.harness import Cluster, add, remove


def behind(count: int = 20, **limits: int) -> Cluster:
    """Member 3 is cut off and everything that it lacks is compacted at 1 and 2."""
    cluster = Cluster(3, tail_bytes=0, **limits)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(count):
        cluster.propose(1, b"%d" % number)
    cluster.tick(1, 1)
    for id in (1, 2):
        cluster.members[id].snapshot()
    return cluster


def test_who_needs_what_is_compacted_gets_a_snapshot_and_then_the_rest() -> None:
    cluster = behind()
    cluster.heal()
    cluster.tick(3)
    assert len(cluster.sent(Kind.SNAPSHOT)) == 1
    cluster.propose(1, b"after")
    assert cluster.values(3) == [b"%d" % number for number in range(20)] + [b"after"]
    assert cluster[1].progress[3].pace is Pace.REPLICATE


def test_entries_that_the_log_still_holds_need_no_snapshot() -> None:
    cluster = Cluster(3, tail_bytes=0)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(20):
        cluster.propose(1, b"%d" % number)
    cluster.members[1].snapshot(keep=20)
    cluster.heal()
    cluster.tick(3)
    assert not cluster.sent(Kind.SNAPSHOT) and len(cluster.values(3)) == 20


def test_while_a_snapshot_is_under_way_nothing_else_is_sent_and_no_second_one() -> None:
    cluster = behind()
    cluster.heal()
    cluster.drop(lambda m: m.kind is Kind.SNAPSHOT)
    cluster.tick(2)
    assert cluster[1].progress[3].pace is Pace.SNAPSHOT
    cluster.log.clear()
    cluster.propose(1, b"x")
    cluster.tick(5)
    assert not cluster.sent(Kind.APPEND, to=3) and not cluster.sent(Kind.SNAPSHOT)
    assert cluster.values(2)[-1] == b"x", "the others are not held up"


def test_a_snapshot_that_failed_is_tried_again() -> None:
    cluster = behind()
    cluster.heal()
    rule = cluster.drop(lambda m: m.kind is Kind.SNAPSHOT)
    cluster.tick(2)
    cluster.rules.remove(rule)
    cluster[1].report_snapshot(3, delivered=False)
    cluster.tick(3)
    assert len(cluster.values(3)) == 20


def test_a_snapshot_goes_only_to_who_was_heard_lately() -> None:
    cluster = behind()
    cluster.tick(25, 1, 2)
    cluster.heal()
    cluster.drop(lambda m: m.sender == 3)
    cluster.tick(5, 1, 2)
    assert not cluster.sent(Kind.SNAPSHOT)
    cluster.heal()
    cluster.tick(5)
    assert len(cluster.values(3)) == 20


def test_a_storage_that_has_no_snapshot_at_the_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = behind()
    storage = cluster.members[1].storage

    def unavailable() -> Snapshot:
        raise Unavailable("being written")

    monkeypatch.setattr(storage, "snapshot", unavailable)
    cluster.heal()
    cluster.tick(5)
    assert not cluster.sent(Kind.SNAPSHOT)
    monkeypatch.undo()
    cluster.tick(3)
    assert len(cluster.values(3)) == 20


def test_an_old_snapshot_changes_nothing_and_is_answered_with_the_commit_index() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    cluster[2].step(Message(Kind.SNAPSHOT, 2, 1, 1, snapshot=Snapshot(3, 1, ConfState((1, 2, 3)))))
    ready = cluster[2].ready()
    assert ready.snapshot is None and [m.index for m in ready.messages_after_persist] == [6]


def test_a_snapshot_of_what_the_log_holds_only_moves_the_commit_index() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.drop(lambda m: m.kind is Kind.APPEND_RESPONSE)
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    node = cluster[2]
    assert node.log.last_index == 6 and node.log.commit == 1
    node.step(Message(Kind.SNAPSHOT, 2, 1, 1, snapshot=Snapshot(4, 1, ConfState((1, 2, 3)))))
    ready = node.ready()
    assert ready.snapshot is None and [e.index for e in ready.committed] == [2, 3, 4]
    assert node.log.last_index == 6


def test_a_snapshot_replaces_a_log_that_parted() -> None:
    cluster = behind()
    cluster.heal()
    cluster.isolate(1)
    cluster.propose(1, b"never")
    leader = cluster.wait_for_leader(2, 3, ticks=200)
    cluster.propose(leader, b"x")
    cluster.tick(2, 2, 3)
    for id in (2, 3):
        cluster.members[id].snapshot()
    cluster.heal()
    cluster.tick(5)
    assert cluster.values(1) == cluster.values(2) == cluster.values(3)
    assert b"never" not in cluster.values(1)


def test_a_snapshot_brings_its_configuration() -> None:
    cluster = Cluster(3, outside=(4, 5), tail_bytes=0)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.change(1, add(4))
    cluster.tick(2)
    cluster.members[1].snapshot()
    cluster.heal()
    cluster.tick(3)
    assert cluster[3].conf == cluster.members[3].conf == ConfState((1, 2, 3, 4))


def test_a_new_member_starts_from_a_snapshot_that_does_not_know_it() -> None:
    cluster = Cluster(3, outside=(4,), tail_bytes=0)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.members[1].snapshot()
    cluster.change(1, add(4))
    cluster.tick(4)
    assert len(cluster.sent(Kind.SNAPSHOT, to=4)) == 1
    assert cluster[4].conf == ConfState((1, 2, 3, 4)) and cluster.values(4) == [b"x"]


def test_a_member_restarts_from_its_snapshot() -> None:
    cluster = behind()
    cluster.heal()
    cluster.tick(3)
    cluster.propose(1, b"y")
    cluster.crash(3)
    cluster.restart(3)
    cluster.tick(3)
    assert cluster.values(3)[-1] == b"y" and len(cluster.values(3)) == 21


def test_entries_behind_a_snapshot_are_applied_only_when_it_is_installed() -> None:
    cluster = behind()
    cluster.heal()
    cluster.members[3].disk_stopped = True
    cluster.tick(2)
    cluster[1].report_snapshot(3, delivered=True)
    cluster.propose(1, b"x")
    cluster.tick(3)
    assert cluster[3].log.pending_snapshot is not None and cluster.values(3) == []
    cluster[3].campaign()
    assert cluster[3].role is Role.FOLLOWER, "it does not campaign in the middle of it either"
    cluster.members[3].disk_stopped = False
    cluster.members[3].write(len(cluster.members[3].unwritten))
    cluster.tick(3)
    assert cluster.values(3)[-1] == b"x"


def test_changes_before_a_snapshot_that_are_applied_late_do_not_touch_its_configuration() -> None:
    cluster = Cluster(3, outside=(4, 5), tail_bytes=0)
    cluster.elect(1)
    cluster.members[3].apply_stopped = True
    cluster.change(1, add(4))
    cluster.tick(1)
    (change,) = [entry for entry in cluster.members[3].unapplied if entry.kind is EntryKind.CONF_CHANGE]
    cluster.isolate(3)
    cluster.change(1, add(5))
    cluster.tick(1, 1, 2, 4, 5)
    cluster.members[1].snapshot()
    later = cluster.members[1].storage.snapshot()
    node = cluster[3]
    node.step(Message(Kind.SNAPSHOT, 3, 1, 1, snapshot=later))
    assert node.conf.voters == (1, 2, 3, 4, 5)
    assert node.apply_conf_change(change).voters == (1, 2, 3, 4), "what belongs to the state so far"
    assert node.conf.voters == (1, 2, 3, 4, 5)


def test_a_follower_far_behind_is_read_to_from_the_disk_one_message_a_ready() -> None:
    cluster = Cluster(3, tail_bytes=0, max_message_bytes=64)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(30):
        cluster.propose(1, b"%d" % number)
    cluster.heal()
    cluster.members[1].readies.clear()
    cluster.tick(3)
    assert len(cluster.values(3)) == 30
    appends = [sum(m.kind is Kind.APPEND and m.to == 3 for m in r.messages) for r in cluster.members[1].readies]
    assert max(appends) <= 2, "has_ready and ready look once each"


# -- transfer -------------------------------------------------------------------------------------------------
def test_leadership_moves_without_a_tick() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster[1].transfer_leadership(2)
    cluster.deliver()
    assert cluster.leader() == 2 and cluster[2].term == 2


def test_the_transferee_is_brought_up_to_date_first() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(2)
    cluster.propose(1, b"x")
    cluster[1].transfer_leadership(2)
    cluster.deliver()
    assert cluster.leader() == 1
    cluster.heal()
    cluster.tick(2)
    assert cluster.leader() == 2 and cluster.values(2) == [b"x"]


def test_a_transfer_takes_the_lease_and_pre_vote_out_of_the_way() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].transfer_leadership(3)
    cluster.deliver()
    assert not [m for m in cluster.sent(Kind.PRE_VOTE) if m.sender == 3]
    assert all(m.force for m in cluster.sent(Kind.VOTE, sender=3))
    assert cluster.leader() == 3


def test_a_leader_that_hands_over_takes_no_proposals_and_gives_up_after_an_election_timeout() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(2)
    cluster[1].transfer_leadership(2)
    with pytest.raises(ProposalDropped) as caught:
        cluster.propose(1, b"x")
    assert caught.value.reason is DropReason.TRANSFERRING
    cluster.tick(10)
    cluster.propose(1, b"x")
    assert cluster.values(1) == [b"x"] and cluster.leader() == 1


def test_a_transfer_to_itself_ends_the_one_under_way() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(2)
    cluster[1].transfer_leadership(2)
    cluster[1].transfer_leadership(1)
    cluster.propose(1, b"x")
    assert cluster.values(1) == [b"x"]


def test_a_second_transfer_takes_the_place_of_the_first() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(2)
    cluster[1].transfer_leadership(2)
    cluster[1].transfer_leadership(3)
    cluster.deliver()
    assert cluster.leader() == 3


def test_a_follower_passes_the_request_on() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].transfer_leadership(3)
    cluster.deliver()
    assert cluster.leader() == 3


def test_learners_and_strangers_are_not_handed_leadership() -> None:
    cluster = Cluster(3, learners=(4,))
    with pytest.raises(TransferRefused, match="no leader"):
        cluster[1].transfer_leadership(2)
    cluster.elect(1)
    for id in (4, 9):
        with pytest.raises(TransferRefused, match=f"member {id} is not a voter"):
            cluster[1].transfer_leadership(id)
    cluster[1].step(Message(Kind.TRANSFER_LEADER, 1, 2, 1, context=4))
    assert cluster[1].transferee == 0


def test_a_transfer_ends_when_its_target_is_removed() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.members[1].apply_stopped = True
    cluster.change(1, remove(3))
    cluster.isolate(3)
    cluster.drop(lambda m: m.kind is Kind.TIMEOUT_NOW)
    cluster[1].transfer_leadership(3)
    cluster.members[1].apply_stopped = False
    cluster.members[1].apply()
    cluster.propose(1, b"x")
    assert cluster.values(1) == [b"x"]


def test_a_late_timeout_now_of_an_earlier_term_does_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].transfer_leadership(2)
    cluster.deliver()
    (old,) = cluster.sent(Kind.TIMEOUT_NOW)
    cluster[3].step(old._replace(to=3))
    cluster[2].step(old)
    cluster.deliver()
    assert cluster.leader() == 2 and cluster[2].term == 2
