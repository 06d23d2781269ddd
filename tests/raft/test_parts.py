"""The small parts: majorities, progress, the log's tail, configuration, the storage in memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv.raft import (
    Compacted,
    Config,
    ConfState,
    Entry,
    EntryKind,
    InvariantError,
    MemoryStorage,
    Unavailable,
    batch_commands,
    batch_origin,
    make_batch,
)
from fastkv.raft.log import RaftLog
from fastkv.raft.progress import Pace, Progress
from fastkv.raft.quorum import Outcome, agreed, decided, majority
from fastkv.raft.storage import limit_bytes
from raft.harness import storage_with

IDS = st.lists(st.integers(1, 9), unique=True, max_size=7)


# -- quorum ---------------------------------------------------------------------------------------------------
def test_a_majority_is_more_than_half() -> None:
    assert [majority(count) for count in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]


@given(IDS, IDS, st.dictionaries(st.integers(1, 9), st.integers(0, 5)))
@settings(deadline=None)
def test_what_is_agreed_is_the_highest_that_a_majority_of_each_half_has(
    voters: list[int], outgoing: list[int], match: dict[int, int]
) -> None:
    def has(index: int) -> bool:
        return all(
            sum(match.get(id, 0) >= index for id in half) >= majority(len(half)) for half in (voters, outgoing) if half
        )

    expected = max(index for index in range(6) if has(index)) if voters or outgoing else 0
    assert agreed(voters, outgoing, lambda member: match.get(member, 0)) == expected


@given(IDS.filter(bool), IDS, st.dictionaries(st.integers(1, 9), st.booleans()))
@settings(deadline=None)
def test_an_election_is_decided_when_no_further_vote_can_change_it(
    voters: list[int], outgoing: list[int], votes: dict[int, bool]
) -> None:
    halves = [half for half in (voters, outgoing) if half]
    open_ids = sorted({id for half in halves for id in half if id not in votes})

    def won(all_votes: dict[int, bool]) -> bool:
        return all(sum(all_votes.get(id, False) for id in half) >= majority(len(half)) for half in halves)

    futures = {
        won(votes | dict(zip(open_ids, rest, strict=True)))
        for rest in itertools.product((True, False), repeat=len(open_ids))
    }
    expected = Outcome.PENDING if len(futures) == 2 else Outcome.WON if True in futures else Outcome.LOST
    assert decided(voters, outgoing, votes) is expected


# -- progress -------------------------------------------------------------------------------------------------
def test_progress_sends_ahead_and_frees_what_is_acknowledged() -> None:
    progress = Progress(1)
    progress.acknowledge(0)
    progress.become_replicate()
    for last in (2, 4, 6):
        progress.sent(last, 10)
    assert progress.next == 7 and progress.inflight_bytes == 30 and progress.full(3, 0) and progress.full(9, 30)
    progress.free_to(4)
    assert [last for last, _ in progress.inflights] == [6] and progress.inflight_bytes == 10
    assert not progress.full(3, 30)


def test_match_never_falls() -> None:
    progress = Progress(1)
    assert progress.acknowledge(5) and not progress.acknowledge(3) and progress.match == 5 and progress.next == 6


def test_a_refused_probe_goes_back_but_never_below_what_matched() -> None:
    progress = Progress(10)
    assert not progress.reject(5, 2), "not the answer to the last probe"
    assert progress.reject(9, 4) and progress.next == 5
    progress.acknowledge(3)
    assert progress.reject(4, 0) and progress.next == 4


def test_a_snapshot_that_arrived_is_followed_by_what_comes_after_it() -> None:
    progress = Progress(1)
    progress.become_snapshot(30)
    assert progress.pace is Pace.SNAPSHOT
    progress.become_probe()
    assert progress.next == 31


# -- log ------------------------------------------------------------------------------------------------------
def test_the_log_is_read_across_storage_and_memory() -> None:
    log = RaftLog(storage_with([1, 1, 2], (1,), term=2), 0, 0, 1 << 20)
    log.append([Entry(3, 4, EntryKind.EMPTY, b""), Entry(3, 5, EntryKind.NORMAL, bytes(16))])
    assert [log.term(index) for index in range(6)] == [0, 1, 1, 2, 3, 3]
    assert [entry.index for entry in log.entries(2, 1 << 20)] == [2, 3], "as far as the storage goes"
    assert [entry.index for entry in log.entries(4, 1 << 20)] == [4, 5]
    assert [entry.index for entry in log.entries(4, 0)] == [4], "one at least"
    assert log.entries(6, 1 << 20) == []
    with pytest.raises(Unavailable):
        log.term(6)


def test_a_cut_into_the_storage_is_followed_by_the_new_entries() -> None:
    log = RaftLog(storage_with([1, 1, 2, 2], (1,), term=2), 0, 1, 1 << 20)
    log.append([Entry(3, 3, EntryKind.EMPTY, b"")])
    assert (log.last_index, log.last_term, log.stable, log.term(2)) == (3, 3, 2, 1)
    assert [entry.index for entry in log.take_unwritten()] == [3]
    with pytest.raises(InvariantError, match="entry 1 would be replaced"):
        log.append([Entry(4, 1, EntryKind.EMPTY, b"")])
    with pytest.raises(InvariantError, match="append at 9"):
        log.append([Entry(4, 9, EntryKind.EMPTY, b"")])


def test_memory_is_given_back_only_for_what_is_durable_and_applied() -> None:
    storage = MemoryStorage(ConfState((1,)))
    log = RaftLog(storage, 0, 0, 100)
    entries = [Entry(1, index, EntryKind.NORMAL, make_batch(1, index, bytes(24))) for index in range(1, 11)]
    log.append(entries)
    log.take_unwritten()
    storage.append(entries[:6])
    log.stable = 6
    log.commit_to(5)
    log.take_committed(1 << 20)
    log.applied_to(3)
    assert log.offset == 4 and log.term(3) == 1
    log.applied_to(5)
    assert log.offset == 6 and [entry.index for entry in log.entries(2, 1 << 20)] == [2, 3, 4, 5]


def test_up_to_date_compares_the_last_term_before_the_length() -> None:
    log = RaftLog(storage_with([1, 2, 2], (1,), term=2), 0, 0, 0)
    assert log.up_to_date(1, 3) and log.up_to_date(3, 2) and log.up_to_date(9, 2)
    assert not log.up_to_date(2, 2) and not log.up_to_date(9, 1)


def test_where_logs_may_meet_is_found_a_term_at_a_time() -> None:
    log = RaftLog(storage_with([1, 1, 3, 3, 5], (1,), term=5), 0, 0, 0)
    assert log.conflict_by_term(5, 4) == (4, 3)
    assert log.conflict_by_term(5, 2) == (2, 1)
    assert log.conflict_by_term(5, 5) == (5, 5)
    assert log.conflict_by_term(2, 0) == (0, 0)


# -- the rest -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad",
    [{"id": 0}, {"election_ticks": 1}, {"heartbeat_ticks": 0}, {"max_inflight_messages": 0}, {"applied": -1}],
)
def test_senseless_configurations_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Config(**{"id": 1} | bad)  # type: ignore[arg-type]


def test_the_storage_in_memory_forgets_only_what_a_snapshot_holds() -> None:
    storage = storage_with([1, 1, 2, 2], (1,), term=2)
    with pytest.raises(Unavailable):
        storage.snapshot()
    with pytest.raises(InvariantError, match="compact to 2"):
        storage.compact(2)
    storage.create_snapshot(3, ConfState((1,)), b"state")
    storage.compact(2)
    assert (storage.first_index(), storage.last_index(), storage.term(2)) == (3, 4, 1)
    assert storage.snapshot().index == 3
    with pytest.raises(Compacted):
        storage.entries(2, 4, 1)
    with pytest.raises(Compacted):
        storage.term(1)
    with pytest.raises(Unavailable):
        storage.entries(3, 6, 1)
    with pytest.raises(Unavailable):
        storage.term(5)


def test_a_limit_in_bytes_lets_one_entry_through() -> None:
    entries = [Entry(1, index, EntryKind.NORMAL, bytes(10)) for index in (1, 2, 3)]
    assert [len(limit_bytes(entries, size)) for size in (0, 10, 19, 20, 30, 99)] == [1, 1, 1, 2, 3, 3]
    assert limit_bytes([], 0) == []


def test_a_batch_names_its_origin() -> None:
    data = make_batch(2**64 - 1, 7, b"commands")
    assert batch_origin(data) == (2**64 - 1, 7) and batch_commands(data) == b"commands"
    assert batch_origin(b"") == (0, 0)
    with pytest.raises(ValueError, match="no header"):
        batch_origin(b"short")
