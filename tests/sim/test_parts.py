"""The simulator's own parts: what they let through would not be seen by anybody."""

from __future__ import annotations

import os
import random

import pytest

from fastkv.raft import Entry, EntryKind, HardState, Ready, Snapshot, make_batch
from fastkv.raft.messages import ConfState
from sim.faulty_files import SECTOR, FaultyFiles
from sim.linearizable import Step, TooLong, is_linearizable
from sim.log_disk import LogDisk
from sim.machine import DELETE, PUT, SWAP
from sim.model_disk import DiskFailed, ModelDisk
from sim.violation import Violation

_NEVER = 1 << 62


def put(begin: int, end: int, value: int) -> Step:
    return Step(begin, end, PUT, value, 0, 1)


def read(begin: int, end: int, answer: int) -> Step:
    return Step(begin, end, 0, 0, 0, answer)


# -- the search -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "history",
    [
        [],
        [put(0, 1, 7), read(2, 3, 7)],
        [put(0, 5, 7), read(1, 2, 0), read(3, 4, 7)],
        [put(0, _NEVER, 7), read(1, 2, 0), read(3, 4, 7)],
        [put(0, _NEVER, 7), read(1, 2, 0)],
        [put(0, 9, 1), put(0, 9, 2), read(1, 2, 2), read(3, 4, 1)],
        [put(0, 1, 1), Step(2, 3, SWAP, 2, 1, 1), Step(4, 5, SWAP, 3, 1, 0), read(6, 7, 2)],
        [Step(0, 1, DELETE, 0, 0, 0), put(2, 3, 1), Step(4, 5, DELETE, 0, 0, 1), read(6, 7, 0)],
    ],
)
def test_a_history_that_some_order_explains(history: list[Step]) -> None:
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [read(0, 1, 7), put(2, 3, 7)],
        [put(0, 1, 7), read(2, 3, 0)],
        [put(0, 5, 7), read(1, 2, 7), read(3, 4, 0)],
        [put(0, 9, 1), put(0, 9, 2), read(1, 2, 2), read(3, 4, 1), read(5, 6, 2)],
        [put(0, _NEVER, 7), read(1, 2, 7), read(3, 4, 0)],
        [put(0, 1, 1), Step(2, 3, SWAP, 2, 9, 1)],
        [put(0, 1, 1), Step(2, 3, DELETE, 0, 0, 0)],
    ],
)
def test_a_history_that_no_order_explains(history: list[Step]) -> None:
    assert not is_linearizable(history)


def test_a_search_that_would_take_too_long_says_so() -> None:
    with pytest.raises(TooLong):
        is_linearizable([put(0, _NEVER, n) for n in range(1, 30)] + [read(0, 1, 99)], states_max=1_000)


# -- files ----------------------------------------------------------------------------------------------------
def test_a_power_loss_keeps_what_was_synced_and_tears_the_rest() -> None:
    seen = set()
    for seed in range(60):
        files = FaultyFiles(random.Random(seed))
        fd = files.open("d/a", os.O_RDWR | os.O_CREAT)
        files.pwrite(fd, b"1" * SECTOR * 2, 0)
        files.fsync(fd)
        files.fsync(files.open("d", os.O_DIRECTORY))
        files.pwrite(fd, b"2" * SECTOR * 2, 0)
        files.pwrite(fd, b"3", SECTOR * 2)
        files.lose_power()
        data = files.open_by_name("d/a", "rb").read()
        assert len(data) in (SECTOR * 2, SECTOR * 2 + 1) and set(data[:SECTOR]) in ({49}, {50})
        seen.add((data[0], data[SECTOR], len(data), data[-1]))
    assert {(49, 50), (50, 49), (49, 49), (50, 50)} == {found[:2] for found in seen}
    assert {found[3] for found in seen if found[2] == SECTOR * 2 + 1} == {0, 51}


def test_a_name_survives_when_its_directory_was_synced() -> None:
    seen = set()
    for seed in range(30):
        files = FaultyFiles(random.Random(seed))
        for name in "a", "b", "c":
            files.close(files.open(f"d/{name}", os.O_RDWR | os.O_CREAT))
            if name == "a":
                files.fsync(files.open("d", os.O_DIRECTORY))
        files.rename("d/b", "d/e")
        files.lose_power()
        seen.add(tuple(sorted(files.listdir("d"))))
    assert seen == {("a",), ("a", "b"), ("a", "b", "c"), ("a", "c", "e")}


def test_an_open_file_is_dead_behind_a_power_loss() -> None:
    files = FaultyFiles(random.Random(1))
    fd = files.open("d/a", os.O_RDWR | os.O_CREAT)
    files.lose_power()
    with pytest.raises(KeyError):
        files.pwrite(fd, b"x", 0)


# -- disks ----------------------------------------------------------------------------------------------------
def entry(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, make_batch(1, index, bytes(10)))


def ready(number: int, entries: list[Entry], hard_state: HardState | None, snapshot: Snapshot | None = None) -> Ready:
    return Ready(number, None, hard_state, snapshot, entries, True, [], [], [], [], [], [])


@pytest.mark.parametrize("kind", [ModelDisk, LogDisk])
def test_a_disk_keeps_what_was_synced_and_a_prefix_of_the_rest(kind: type[ModelDisk] | type[LogDisk]) -> None:
    ends = set()
    for seed in range(60):
        disk = kind(random.Random(seed))
        disk.write(ready(1, [entry(1, 1), entry(1, 2)], HardState(1, 1, 0)))
        disk.sync(1)
        disk.write(ready(2, [entry(1, 3)], None))
        disk.write(ready(3, [entry(2, 2), entry(2, 3), entry(2, 4)], HardState(2, 0, 1)))
        disk.lose_power()
        disk.recover()
        found = disk.durable
        assert found.term(1) == 1 and found.last_index() >= 2 and found.hard_state.term >= 1
        ends.add((found.last_index(), found.term(2), found.hard_state))
    first = HardState(1, 1, 0)
    assert ends == {
        (2, 1, first),
        (3, 1, first),
        (2, 2, first),
        (3, 2, first),
        (4, 2, first),
        (4, 2, HardState(2, 0, 1)),
    }


@pytest.mark.parametrize("kind", [ModelDisk, LogDisk])
def test_a_snapshot_takes_the_place_of_the_log(kind: type[ModelDisk] | type[LogDisk]) -> None:
    snapshot = Snapshot(9, 3, ConfState((1, 2)), b"state")
    disk = kind(random.Random(1))
    disk.write(ready(1, [entry(1, n) for n in range(1, 12)], HardState(1, 0, 0)))
    disk.write(ready(2, [entry(3, 10)], HardState(3, 0, 9), snapshot))
    disk.sync(2)
    disk.lose_power()
    disk.recover()
    found = disk.durable
    assert (found.newest, found.first_index(), found.last_index(), found.term(9)) == (snapshot, 10, 10, 3)


def test_a_compacted_real_log_is_read_back_from_its_segments() -> None:
    disk = LogDisk(random.Random(1))
    for index in range(1, 61):
        disk.write(ready(index, [entry(1, index)], HardState(1, 0, index - 1)))
        disk.sync(index)
        if index % 10 == 0:
            disk.save_snapshot(index - 5, ConfState((1,)), b"state", 2)
    disk.lose_power()
    disk.recover()
    assert disk.durable.last_index() == 60 and 1 < disk.durable.first_index() <= 54
    assert disk.durable.newest.index == 55


@pytest.mark.parametrize("kind", [ModelDisk, LogDisk])
def test_a_sync_that_fails_says_so(kind: type[ModelDisk] | type[LogDisk]) -> None:
    disk = kind(random.Random(1))
    disk.write(ready(1, [entry(1, 1)], HardState(1, 0, 0)))
    disk.fail_next_sync()
    with pytest.raises(DiskFailed):
        disk.sync(1)


def test_a_log_that_lost_what_was_synced_is_noticed() -> None:
    disk = LogDisk(random.Random(1))
    disk.write(ready(1, [entry(1, 1), entry(1, 2)], HardState(1, 1, 0)))
    disk.sync(1)
    disk.files._directories.clear()
    disk.lose_power()
    with pytest.raises(Violation, match="recovery"):
        disk.recover()
