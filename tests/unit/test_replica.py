"""
The replicated protocol of an engine (engine.py, ReplicatedEngine), promise by promise, on both engines.

Method: a test drives an engine by hand as a node would; what a crash leaves is a copy of the directory taken while
the engine is open. Power loss is tested in C++ (replica_power_loss_test), random sequences are in
differential/test_replicas.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastkv import engine as protocol
from fastkv import errors
from fastkv.errors import Code
from fastkv.python.wire import encode_put
from fastkv.raft.messages import make_batch
from support.engines import ENGINES, load_engine

CLUSTER, SELF, OTHER = 1, 7, 8
NORMAL, CONF_CHANGE, EMPTY = 0, 1, 2
EVERYTHING = 1 << 60

Entry = tuple[int, int, int, bytes]
Open = Callable[..., Any]


def command(tag: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes((tag, len(payload))) + payload


def put(term: int, index: int, key: bytes, value: bytes, origin: int = OTHER) -> Entry:
    return term, index, NORMAL, make_batch(origin, index, command(protocol.PUT, encode_put(key, value, 0)))


def change(term: int, index: int) -> Entry:
    return term, index, CONF_CHANGE, b"what only the node understands"


def empty(term: int, index: int) -> Entry:
    return term, index, EMPTY, b""


def compaction(term: int, index: int, revision: int) -> Entry:
    return term, index, NORMAL, make_batch(OTHER, index, command(protocol.COMPACTION, bytes((8, revision))))


def commit(engine: Any, *entries: Entry) -> None:
    """As a follower does it, all at once."""
    engine.log_append(entries, (entries[-1][0], 0, entries[-1][1]))
    engine.log_sync()
    engine.apply(entries)


@pytest.fixture
def open_replica(open_engine: Open, tmp_path: Path) -> Open:
    def make(name: str = "data", **options: Any) -> Any:
        engine = open_engine(tmp_path / name, replicated=True, **options)
        engine.set_identity(CLUSTER, SELF, 0)
        return engine

    return make


def crashed(path: Path, name: str = "crashed") -> Path:
    """What the death of the process would leave now."""
    shutil.rmtree(path.parent / name, ignore_errors=True)
    return Path(shutil.copytree(path, path.parent / name))


def snapshot_bytes(engine: Any) -> tuple[int, int, bytes]:
    """(index, term, bytes) of the newest checkpoint, read in pieces."""
    engine.checkpoint()
    reader = engine.snapshot_open()
    data = b""
    while piece := reader.read(len(data), 1000):
        data += piece
    assert len(data) == reader.size
    reader.close()
    return reader_index(engine), engine.log_term(reader_index(engine)), data


def reader_index(engine: Any) -> int:
    return int(engine.stats()["checkpoint_index"])


def receive(engine: Any, index: int, term: int, data: bytes) -> Any:
    writer = engine.snapshot_receive(index, term)
    for at in range(0, len(data), 700):
        assert writer.size == at
        writer.write(data[at : at + 700])
    writer.finish()
    return writer


# -- the log --------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were_given(open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    entries = [put(1, 1, b"a", b"1"), change(1, 2), empty(2, 3), put(3, 4, b"b", b"x" * 90), (3, 5, EMPTY, b"h" * 16)]
    engine.log_append(entries, (3, 2, 0))
    for again in (engine, open_replica("crashed") if crashed(tmp_path / "data") else None):
        assert again.log_entries(1, 6, EVERYTHING) == entries
        assert (again.log_state(), again.log_first, again.log_last, again.applied_index) == ((3, 2, 0), 1, 5, 0)
        assert [again.log_term(index) for index in range(6)] == [0, 1, 1, 2, 3, 3]
        for low, high in ((6, 7), (0, 3), (5, 7)):
            with pytest.raises(errors.StorageError) as caught:
                again.log_entries(low, high, EVERYTHING)
            assert caught.value.number == Code.NOT_FOUND
        with pytest.raises(errors.StorageError):
            again.log_term(6)


def test_entries_are_cut_at_the_bytes_that_were_asked_for(open_replica: Open) -> None:
    engine = open_replica()
    entries = [put(1, index, b"k", b"v" * 50) for index in range(1, 21)]
    engine.log_append(entries, (1, 0, 0))
    each = len(entries[0][3])
    for bytes_max, count in ((EVERYTHING, 18), (0, 1), (each, 1), (2 * each - 1, 1), (2 * each, 2), (7 * each, 7)):
        assert engine.log_entries(3, 21, bytes_max) == entries[2 : 2 + count]
    assert engine.log_entries(5, 5, 100) == []


def test_a_conflicting_suffix_is_cut_and_stays_cut(open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    engine.log_append([put(1, index, b"a", b"%d" % index) for index in (1, 2, 3)], (1, 0, 1))
    engine.log_append([put(2, 2, b"b", b"2")], (2, 0, 1))
    expected = [put(1, 1, b"a", b"1"), put(2, 2, b"b", b"2")]
    assert engine.log_entries(1, 3, EVERYTHING) == expected and engine.log_last == 2
    crashed(tmp_path / "data")
    again = open_replica("crashed")
    assert again.log_entries(1, 3, EVERYTHING) == expected and again.log_last == 2
    assert (again.applied_index, again.get(b"a")) == (1, b"1")


@pytest.mark.parametrize("data", [b"", b"short", make_batch(1, 1, b"\x63\x01x"), make_batch(1, 1, b"\x04\x7f")])
def test_what_is_no_batch_is_refused_and_nothing_is_written(data: bytes, open_replica: Open) -> None:
    engine = open_replica()
    with pytest.raises(errors.InvalidRequestError) as caught:
        engine.log_append([put(1, 1, b"a", b"1"), (1, 2, NORMAL, data)], (1, 0, 0))
    assert caught.value.number == Code.MALFORMED
    assert (engine.log_last, engine.log_state()) == (0, (0, 0, 0))
    engine.log_append([(1, 1, EMPTY, data), (1, 2, CONF_CHANGE, data)], (1, 0, 0))
    assert engine.log_last == 2


@pytest.mark.parametrize(
    "entry", [(1 << 56, 1, NORMAL, b""), (1, 1 << 63, NORMAL, b""), (1, 1, 3, b""), (1, 1, -1, b"")]
)
def test_what_no_log_can_hold_is_a_value_error(entry: Entry, open_replica: Open) -> None:
    engine = open_replica()
    with pytest.raises(ValueError, match="no entry has term"):
        engine.log_append([entry])
    with pytest.raises(ValueError, match="no hard state is"):
        engine.log_append([], (1 << 56, 0, 0))
    assert engine.log_last == 0


@pytest.mark.parametrize("broken", ["a gap", "not consecutive", "what is applied"])
def test_a_broken_append_poisons(broken: str, open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    commit(engine, put(1, 1, b"a", b"1"), put(1, 2, b"a", b"2"))
    entries = {
        "a gap": [put(1, 4, b"a", b"x")],
        "not consecutive": [put(1, 3, b"a", b"x"), put(1, 5, b"a", b"x")],
        "what is applied": [put(2, 2, b"a", b"x")],
    }[broken]
    with pytest.raises(errors.PoisonedError):
        engine.log_append(entries, (2, 0, 2))
    with pytest.raises(errors.PoisonedError):
        engine.log_append([put(1, 3, b"a", b"3")])
    assert engine.get(b"a") == b"2" and (engine.log_last, engine.log_term(2)) == (2, 1)
    crashed(tmp_path / "data")
    assert open_replica("crashed").get(b"a") == b"2"


def test_an_entry_of_a_later_term_than_the_hard_state_raises_it(open_replica: Open, tmp_path: Path) -> None:
    open_replica().log_append([put(3, 1, b"a", b"1")], (2, 7, 0))
    crashed(tmp_path / "data")
    assert open_replica("crashed").log_state() == (3, 0, 0)


# -- applying -------------------------------------------------------------------------------------------------


def test_answers_go_to_who_expects_the_batch(open_replica: Open) -> None:
    engine = open_replica()
    wrong = command(protocol.PUT, encode_put(b"a", b"1", 99))
    entries = [
        (1, 1, NORMAL, make_batch(SELF, 100, put(1, 1, b"a", b"1")[3][16:] + wrong)),
        (1, 2, NORMAL, make_batch(SELF, 101, put(1, 1, b"a", b"2")[3][16:])),  # expected by nobody
        (1, 3, NORMAL, make_batch(OTHER, 102, put(1, 1, b"a", b"3")[3][16:])),  # another member's 102
        empty(1, 4),
    ]
    for sequence in (100, 102, 103):
        engine.expect(sequence)
    engine.log_append(entries, (1, 0, 4))
    ((sequence, answers),) = engine.apply(entries)
    assert (sequence, [code for code, _ in answers]) == (100, [Code.OK, Code.LEASE_NOT_FOUND])
    assert answers[0][1] != b"" and answers[1][1] == b""
    assert (engine.forget(100), engine.forget(102), engine.forget(102)) == (False, True, False)
    assert (engine.applied_index, engine.revision, engine.get(b"a")) == (4, 4, b"3")


@pytest.mark.parametrize("entry", [put(1, 3, b"a", b"3"), put(2, 2, b"a", b"2"), put(1, 1, b"a", b"1")])
def test_only_the_next_entry_of_the_log_is_applied(entry: Entry, open_replica: Open) -> None:
    engine = open_replica()
    engine.log_append([put(1, index, b"a", b"%d" % index) for index in (1, 2, 3)], (1, 0, 3))
    engine.apply([put(1, 1, b"a", b"1")])
    with pytest.raises(errors.PoisonedError):
        engine.apply([entry])
    assert (engine.applied_index, engine.get(b"a")) == (1, b"1")


def test_opening_applies_what_is_committed_up_to_a_change_of_membership(open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    engine.set_membership(b"one")
    tail = [put(1, 4, b"a", b"4"), change(1, 5), put(1, 6, b"a", b"6"), put(1, 7, b"a", b"7")]
    engine.log_append([put(1, 1, b"a", b"1"), empty(1, 2), put(1, 3, b"a", b"3"), *tail], (1, 0, 6))
    crashed(tmp_path / "data")
    again = open_replica("crashed")
    assert (again.applied_index, again.get(b"a"), again.log_state()) == (4, b"4", (1, 0, 6))
    again.apply([tail[1]], b"two")
    again.apply([tail[2]])
    assert (again.membership, again.get(b"a")) == (b"two", b"6")
    again.checkpoint()
    crashed(tmp_path / "crashed", "data2")
    last = open_replica("data2")
    assert (last.applied_index, last.membership, last.log_last) == (6, b"two", 7)


def test_a_clean_close_remembers_how_far_it_was_committed(open_replica: Open) -> None:
    engine = open_replica()
    entries = [put(1, 1, b"a", b"1"), put(1, 2, b"a", b"2")]
    engine.log_append(entries, (1, 0, 0))
    engine.apply(entries[:1])
    engine.close()
    engine = open_replica()
    assert (engine.applied_index, engine.log_state(), engine.log_last) == (1, (1, 0, 1), 2)


def test_calls_of_a_replica_need_one(open_engine: Open, open_replica: Open, tmp_path: Path) -> None:
    plain = open_engine(tmp_path / "plain")
    for call in (plain.log_state, plain.snapshot_open, lambda: plain.set_alone(True), lambda: plain.membership):
        with pytest.raises(RuntimeError, match="replicated=True"):
            call()
    with pytest.raises(errors.ReadOnlyError):
        open_engine(tmp_path / "plain", replicated=True, readonly=True)
    replica = open_replica()
    for write in (
        lambda: replica.put(b"a", b"1"),
        lambda: replica.delete(b"a"),
        lambda: replica.put_many([(b"a", b"1")]),
        lambda: replica.commit([(protocol.PUT, encode_put(b"a", b"1", 0))]),
    ):
        with pytest.raises(errors.ReadOnlyError, match="comes through Raft"):
            write()
    assert replica.log_last == 0


# -- with and without Raft ------------------------------------------------------------------------------------


def test_a_members_directory_opens_without_raft_only_for_reading(
    open_engine: Open, open_replica: Open, tmp_path: Path
) -> None:
    engine = open_replica()
    engine.set_membership(b"three")
    uncommitted = put(1, 4, b"a", b"uncommitted")
    engine.log_append([put(1, 1, b"a", b"1"), change(1, 2), put(1, 3, b"a", b"3"), uncommitted], (1, 0, 3))
    path = crashed(tmp_path / "data")
    sentence = (
        f"{path} belongs to a member of a cluster, where Raft alone may write: start the node, or open it readonly"
    )
    with pytest.raises(errors.FormatError, match=re.escape(sentence)):
        open_engine(path)
    readonly = open_engine(path, readonly=True)
    assert (readonly.applied_index, readonly.get(b"a")) == (3, b"3")


def test_a_plain_directory_becomes_a_members_and_back(open_engine: Open, open_replica: Open, tmp_path: Path) -> None:
    with_meta = open_engine(tmp_path / "data")
    with_meta.put(b"a", b"1")
    with_meta.write_meta(b"identity")
    with_meta.checkpoint()
    with_meta.put(b"a", b"2")
    with_meta.close()
    member = open_replica()
    assert (member.applied_index, member.log_state(), member.read_meta()) == (2, (1, 0, 2), b"identity")
    with pytest.raises(errors.StorageError, match="before the first membership is set"):
        member.snapshot_open()
    member.set_membership(b"one")
    member.log_append([put(2, 3, b"a", b"3")], (2, SELF, 0), alone=True)
    member.log_sync()
    member.apply([put(2, 3, b"a", b"3")])
    member.close()
    plain = open_engine(tmp_path / "data")
    assert (plain.get(b"a"), plain.read_meta()) == (b"3", b"identity")
    plain.put(b"a", b"4")
    plain.checkpoint()
    plain.put(b"a", b"5")
    plain.close()
    member = open_replica()
    assert (member.get(b"a"), member.applied_index, member.membership) == (b"5", 5, b"one")
    assert member.read_meta() == b"identity" and member.log_term(5) == 2


# -- alone ----------------------------------------------------------------------------------------------------


def test_commits_of_one_that_is_alone_are_entries_of_its_term(open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    engine.set_membership(b"one")
    engine.set_identity(CLUSTER, SELF, 5)
    engine.set_alone(True)
    assert [engine.put(b"a", b"1"), engine.put(b"a", b"2"), engine.delete(b"b")[0]] == [2, 3, 0]
    assert engine.put_many([(b"a", b"3"), (b"b", b"3")]) == 4
    assert (engine.log_state(), engine.log_last, engine.applied_index) == ((5, SELF, 4), 4, 4)
    assert [entry[:3] for entry in engine.log_entries(1, 5, EVERYTHING)] == [
        (5, index, NORMAL) for index in (1, 2, 3, 4)
    ]
    assert engine.log_entries(1, 2, 1)[0][3] == put(5, 1, b"a", b"1", origin=0)[3]
    entry = put(5, 5, b"a", b"no")
    for refused in (lambda: engine.log_append([entry], (5, SELF, 5)), lambda: engine.apply([entry])):
        with pytest.raises(errors.ReadOnlyError, match="alone"):
            refused()
    crashed(tmp_path / "data")
    again = open_replica("crashed")
    assert (again.applied_index, again.get(b"a"), again.log_state()[0]) == (4, b"3", 5)
    with pytest.raises(errors.ReadOnlyError):
        again.put(b"a", b"4")  # until it is told again that it is alone
    again.set_alone(True)
    assert again.put(b"a", b"4") == 5


def test_raft_takes_over_where_the_commits_of_one_alone_end(
    open_engine: Open, open_replica: Open, tmp_path: Path
) -> None:
    engine = open_replica()
    engine.set_membership(b"one")
    engine.set_alone(True)
    engine.set_alone(True)
    done = threading.Event()
    committed = [0, 0, 0]

    def write(number: int) -> None:
        while not done.is_set():
            try:
                engine.put(b"a", b"v")
            except errors.ReadOnlyError:
                done.set()
            else:
                committed[number] += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    while sum(committed) < 20:
        done.wait(0.001)
    engine.set_alone(False)
    last = engine.log_last
    assert (engine.applied_index, engine.log_state()) == (last, (1, SELF, last))
    for writer in writers:
        writer.join()
    assert (engine.log_last, engine.revision) == (last, 1 + sum(committed))
    engine.set_alone(False)
    engine.log_append([empty(2, last + 1)], (2, SELF, last))
    with pytest.raises(errors.ReadOnlyError, match=f"entries {last + 1} to {last + 1} are not applied yet"):
        engine.set_alone(True)
    path = crashed(tmp_path / "data")
    with pytest.raises(errors.FormatError):
        open_engine(path)
    assert open_replica("crashed").applied_index == last


def test_a_change_of_membership_is_in_a_checkpoint_before_a_member_is_alone(
    open_engine: Open, open_replica: Open, tmp_path: Path
) -> None:
    """Who opens the directory without Raft would lose it at its next checkpoint."""
    engine = open_replica()
    engine.set_membership(b"two")
    engine.log_append([change(1, 1)], (1, SELF, 1))
    engine.apply([change(1, 1)], b"one")
    engine.log_append([put(1, 2, b"a", b"1")], (1, SELF, 2), alone=True)
    with pytest.raises(errors.FormatError):
        open_engine(crashed(tmp_path / "data"))
    engine.apply([put(1, 2, b"a", b"1")])
    engine.set_alone(True)
    plain = open_engine(crashed(tmp_path / "data"))
    plain.put(b"a", b"2")
    plain.checkpoint()
    plain.close()
    again = open_replica("crashed")
    assert (again.membership, again.get(b"a")) == (b"one", b"2")


# -- snapshots ------------------------------------------------------------------------------------------------


@pytest.fixture
def leader(open_replica: Open) -> Any:
    engine = open_replica("leader")
    engine.set_membership(b"members")
    commit(engine, *(put(4, index, b"k%d" % (index % 10), b"v%d" % index) for index in range(1, 51)))
    return engine


@pytest.mark.parametrize("sender", ENGINES)
def test_an_installed_snapshot_is_the_state_and_the_log_goes_on_behind_it(
    sender: str, open_replica: Open, tmp_path: Path
) -> None:
    path = tmp_path / "sender"
    leader = load_engine(sender)(str(path), protocol.Options(replicated=True))
    leader.set_membership(b"members")
    leader.write_meta(b"the leader's own")
    commit(leader, *(put(4, index, b"k%d" % (index % 10), b"v%d" % index) for index in range(1, 51)))
    index, term, data = snapshot_bytes(leader)
    assert (index, term) == (50, 4) and b"the leader's own" not in data
    engine = open_replica()
    engine.write_meta(b"my own")
    engine.log_append([put(1, 1, b"old", b"1"), put(1, 2, b"old", b"2")], (1, 3, 1))
    engine.snapshot_install(receive(engine, index, term, data))
    for again in (engine, open_replica("crashed") if crashed(tmp_path / "data") else None):
        assert (again.applied_index, again.log_first, again.log_last, again.log_term(50)) == (50, 51, 50, 4)
        assert (again.hash(), again.revision, again.log_state()) == (leader.hash(), 51, (4, 0, 50))
        assert (again.membership, again.read_meta()) == (b"members", b"my own")
        assert snapshot_bytes(again)[2] == data  # a follower may send on what it was sent
    commit(engine, put(4, 51, b"a", b"b"))
    assert engine.get(b"a") == b"b"
    leader.close()


def test_a_snapshot_that_is_behind_is_refused(leader: Any, open_replica: Open) -> None:
    engine = open_replica()
    old = snapshot_bytes(leader)
    commit(leader, put(4, 51, b"a", b"b"))
    new = snapshot_bytes(leader)
    engine.snapshot_install(receive(engine, *new))
    for stale in (old, new):
        writer = receive(engine, *stale)
        with pytest.raises(errors.StorageError, match="is behind the applied entry 51") as caught:
            engine.snapshot_install(writer)
        assert caught.value.number == Code.NOT_FOUND
        writer.abort()
    assert (engine.revision, engine.applied_index) == (52, 51)
    other = open_replica("other")  # a later index, but of a state that is behind
    other.set_membership(b"m")
    commit(other, *(empty(1, index) for index in range(1, 61)))
    with pytest.raises(errors.CorruptError, match="behind this store's 52"):
        engine.snapshot_install(receive(engine, *snapshot_bytes(other)))
    commit(engine, put(4, 52, b"a", b"c"))


def test_a_damaged_snapshot_is_refused_with_file_and_offset(leader: Any, open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    index, term, data = snapshot_bytes(leader)
    before = sorted((tmp_path / "data" / "checkpoint").iterdir())
    for at in range(0, len(data), 41):
        damaged = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(errors.CorruptError, match=r"[0-9a-f]{16}\.[0-9a-f]{16}\.recv.* at offset \d+"):
            receive(engine, index, term, damaged)
    for wrong in ((index, term, data[:-1]), (index, term, b""), (index + 1, term, data), (index, term + 1, data)):
        with pytest.raises(errors.CorruptError, match=r"\.recv"):
            receive(engine, *wrong)
    writer = engine.snapshot_receive(index, term)
    with pytest.raises(errors.ClosedError, match="not finished"):
        engine.snapshot_install(writer)
    writer.write(data)
    writer.finish()
    writer.finish()
    assert (writer.size, writer.membership) == (len(data), b"members")
    with pytest.raises(errors.ClosedError, match="is finished"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="another engine"):
        leader.snapshot_install(writer)
    writer.abort()
    writer.abort()
    with pytest.raises(errors.ClosedError):
        engine.snapshot_install(writer)
    assert sorted((tmp_path / "data" / "checkpoint").iterdir()) == before
    assert engine.applied_index == 0


def test_what_was_being_received_is_gone_after_a_crash(leader: Any, open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica()
    writer = engine.snapshot_receive(5, 1)
    writer.write(b"bytes")
    path = crashed(tmp_path / "data")
    assert [file.suffix for file in (path / "checkpoint").iterdir()] == [".recv"]
    open_replica("crashed")
    assert list((path / "checkpoint").iterdir()) == []
    writer.abort()
    assert list((tmp_path / "data" / "checkpoint").iterdir()) == []


def test_a_snapshot_stays_readable_when_newer_ones_take_its_place(leader: Any, tmp_path: Path) -> None:
    _, _, data = snapshot_bytes(leader)
    reader = leader.snapshot_open()
    for index in range(51, 60):
        commit(leader, put(4, index, b"a", b"b"))
        leader.checkpoint()
    assert len(list((tmp_path / "leader" / "checkpoint").iterdir())) == 2
    assert reader.read(0, EVERYTHING >> 8) == data
    assert (reader.index, reader.term, reader.membership, reader.size) == (50, 4, b"members", len(data))
    assert (reader.read(len(data), 10), reader.read(len(data) - 3, 10)) == (b"", data[-3:])
    reader.close()
    with pytest.raises(errors.ClosedError):
        reader.read(0, 1)


def test_a_snapshot_whose_file_somebody_has_removed_is_a_storage_error(leader: Any, tmp_path: Path) -> None:
    leader.checkpoint()
    for file in (tmp_path / "leader" / "checkpoint").iterdir():
        file.unlink()
    with pytest.raises(errors.StorageError, match=r"0000000000000032\.ckpt") as caught:
        leader.snapshot_open()
    assert caught.value.number == Code.NOT_FOUND


def test_watchers_go_on_in_the_new_state_or_are_told(leader: Any, open_replica: Open) -> None:
    engine = open_replica()
    live = engine.watch(b"k", b"l", 0, False, 0)
    old = engine.watch(b"k", b"l", 2, False, 0)
    future = engine.watch(b"k", b"l", 70, False, 0)
    engine.snapshot_install(receive(engine, *snapshot_bytes(leader)))

    def taken(watcher: int) -> tuple[int, int]:
        """The last revision and compact revision that it is given."""
        last = (0, 0)
        while batches := engine.watch_take(watcher, EVERYTHING):
            last = batches[-1].revision, batches[-1].compact_revision
        return last

    assert set(engine.watch_ready()) >= {live, old}
    assert (taken(live), taken(old), taken(future)) == ((51, 0), (51, 0), (0, 0))
    waiting = engine.watch(b"k", b"l", 40, False, 0)
    commit(leader, put(4, 51, b"k1", b"x"), put(4, 52, b"k2", b"y"), compaction(4, 53, 53), put(4, 54, b"k2", b"z"))
    engine.snapshot_install(receive(engine, *snapshot_bytes(leader)))
    assert (taken(waiting), taken(live)) == ((0, 53), (0, 53))  # revision 52 is gone, which neither was given
    with pytest.raises(errors.CompactedError):
        engine.get(b"k1", None, 52)
    again = engine.watch(b"k", b"l", 54, False, 0)
    assert taken(again) == (54, 0)
    commit(engine, put(4, 55, b"k1", b"live again"))
    assert taken(again) == (55, 0)
    assert engine.watch_progress(future) == -1


def test_readers_go_on_while_snapshots_take_their_place(leader: Any, open_replica: Open) -> None:
    """Every answer is of the history, whole, and no revision goes back. Revision r puts k = l = r in one txn."""
    engine = open_replica()
    history = open_replica("history")
    history.set_membership(b"m")
    stop = threading.Event()
    wrong: list[Any] = []

    def read() -> None:
        last = 0
        while not stop.is_set():
            values = {kv.value for kv in engine.scan(b"k", b"m", 0, 0, False, protocol.KEY_VALUES)}
            newest = int(next(iter(values), b"1"))
            if len(values) > 1 or newest < last:
                wrong.append((last, values))
            last = newest

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    history.set_alone(True)
    for _ in range(6):
        for _ in range(20):
            value = b"%d" % (history.revision + 1)
            history.put_many([(b"k", value), (b"l", value)])
        engine.snapshot_install(receive(engine, *snapshot_bytes(history)))
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert (engine.hash(), engine.revision) == (history.hash(), 121)


def test_old_segments_go_and_entries_stay_for_members_a_little_behind(open_replica: Open, tmp_path: Path) -> None:
    engine = open_replica(
        snapshot_catchup_entries=100, segment_bytes_first=4096, segment_bytes_max=4096, checkpoint_on_close=False
    )
    engine.set_membership(b"m")
    engine.write_meta(b"identity")
    for first in range(1, 601, 50):
        commit(engine, *(put(1, index, b"k", b"v" * 40) for index in range(first, first + 50)))
        engine.checkpoint()
    first = engine.log_first
    assert 600 - 200 < first <= 600 - 100
    assert engine.log_entries(first, first + 1, 0)[0][1] == first and engine.log_term(first - 1) == 1
    crashed(tmp_path / "data")
    again = open_replica("crashed", segment_bytes_first=4096, segment_bytes_max=4096)
    assert (again.log_first, again.log_last, again.log_state()) == (first, 600, (1, 0, 600))
    assert (again.read_meta(), again.membership, again.get(b"k")) == (b"identity", b"m", b"v" * 40)


def test_a_checkpoint_is_written_after_so_many_entries(open_replica: Open) -> None:
    engine = open_replica(snapshot_count=20)
    engine.set_membership(b"m")
    index = 0
    while reader_index(engine) < 40:
        index += 1
        commit(engine, put(1, index, b"k", b"v" * 60))
    assert index < 2000
