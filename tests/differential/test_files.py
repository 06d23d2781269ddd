"""
What one engine has written the other reads, and both judge damage alike: the same state, or CorruptError for the same
file.

Method: random writes by either engine; then the directory is closed, killed, torn or damaged, and each engine opens a
copy of its own. A failure prints its seed; FASTKV_SEED=N replays it, FASTKV_FLIPS=N flips more bits.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from fastkv import engine as protocol
from fastkv.errors import CorruptError, Error
from fastkv.python import checkpoint, log, recovery
from fastkv.python.crc32c import crc32c
from fastkv.python.payloads import HardState
from support.engines import load_engine
from support.generate import Calls

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
REPLAY = f"replay: FASTKV_SEED={SEED} pytest tests/differential/test_files.py"
NAMES = ("native", "python")
OPTIONS = protocol.Options(sync=False, checkpoint_bytes=1 << 40, segment_bytes_first=4096, segment_bytes_max=16384)
FLIPS = int(os.environ.get("FASTKV_FLIPS", "20"))
WRITES = ("put", "delete", "put_many", "commit", "write_meta", "compact_step")
FILE = re.compile(r"[0-9a-f]{16}\.(?:log|ckpt)")
ALONE = HardState(term=7, vote=3, commit=0, alone=True).encode()
BYTES = re.compile(r"(\d+) bytes")

State = dict[str, Any]


def open_engine(name: str, path: Path, **changes: Any) -> Any:
    return load_engine(name)(str(path), OPTIONS._replace(**changes))


def write(engine: Any, seed: int, count: int) -> None:
    """Random writes; what a client is refused is part of it."""
    calls = Calls(seed)
    while count:
        name, arguments = calls.next(engine.revision)
        if name not in WRITES:
            continue
        count -= 1
        try:
            getattr(engine, name)(*arguments)
        except Error as error:
            if error.number >= 100:
                raise


def state(engine: Any) -> State:
    """All that can be asked for without a write."""
    assert engine.check() == []
    leases = engine.leases()
    return {
        "revisions": (engine.revision, engine.compact_revision, engine.applied_index),
        "hash": engine.hash(),
        "hash_kv": engine.hash_kv(0),
        "keys": engine.scan(b"\0", b"\0", 0, 0, False, protocol.KEY_VALUES),
        "leases": leases,
        "lease_keys": [engine.lease_keys(lease) for lease, _, _ in leases],
        "meta": engine.read_meta(),
    }


def alarms(engine: Any) -> Any:
    """Asked for with a command, which the log keeps."""
    return engine.commit([(protocol.ALARM, b"")])


def copy_of(path: Path, name: str) -> Path:
    copy = path.with_name(f"{path.name}-{name}")
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(path, copy))


def verdict(name: str, other: str, path: Path, **changes: Any) -> Any:
    """
    What opening a copy of the directory comes to: the state, the alarms and how many bytes were cut, or the damaged
    file. What was repaired must open on the other engine without a word and with the same state.
    """
    copy = copy_of(path, name)
    lines: list[str] = []
    try:
        engine = open_engine(name, copy, log=lines.append, **changes)
    except CorruptError as error:
        found = FILE.search(str(error))
        return "corrupt", found and found[0], sorted(FILE.search(line)[0] for line in lines)  # type: ignore[index]
    cut = [int(number) for line in lines if "torn" in line for number in BYTES.findall(line)]
    result = state(engine), alarms(engine), cut
    expected = state(engine)
    engine.close()
    lines.clear()
    engine = open_engine(other, copy, log=lines.append)
    assert state(engine) == expected
    engine.close()
    assert [line for line in lines if "torn" in line] == []
    return "open", result, []


def same_verdict(path: Path, what: str, **changes: Any) -> Any:
    native, python = verdict("native", "python", path, **changes), verdict("python", "native", path, **changes)
    assert native == python, f"{what}; {REPLAY}"
    return native


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").iterdir())


def used_bytes(segment: Path) -> int:
    return len(segment.read_bytes().rstrip(b"\0"))


def killed(engine: Any, path: Path) -> Path:
    """The directory as kill -9 would leave it now."""
    left = copy_of(path, "killed")
    engine.close()
    shutil.rmtree(path)
    return left.rename(path)


@pytest.mark.random
@pytest.mark.parametrize("number", range(6))
def test_a_directory_goes_from_engine_to_engine(number: int, tmp_path: Path) -> None:
    """Open, write, checkpoint, compact, close or die: eight times, by whichever engine it hits."""
    chance = Random(SEED + number)
    path = tmp_path / "data"
    expected: State | None = None
    for round in range(8):
        name = chance.choice(NAMES)
        engine = open_engine(name, path, sync=chance.randrange(4) == 0)
        what = f"run {number}, round {round}, {name}"
        assert expected is None or state(engine) == expected, f"{what}; {REPLAY}"
        for _ in range(chance.randrange(4)):
            write(engine, chance.randrange(1 << 30), chance.randrange(1, 60))
            if chance.randrange(2):
                engine.checkpoint()
        expected = state(engine)
        if chance.randrange(2):
            engine.close()
        else:
            killed(engine, path)
        assert same_verdict(path, what)[1][0] == expected
        readonly = [open_engine(side, path, readonly=True) for side in NAMES]
        assert [state(engine) for engine in readonly] == [expected, expected], f"{what}; {REPLAY}"
        for engine in readonly:
            engine.close()


@pytest.mark.random
@pytest.mark.parametrize("writer", NAMES)
def test_a_tail_torn_at_any_byte_is_cut_alike(writer: str, tmp_path: Path) -> None:
    """Nothing here was synced, so a torn tail is no damage, unless it takes a segment's header along."""
    chance = Random(SEED)
    path = tmp_path / "data"
    engine = open_engine(writer, path)
    write(engine, SEED, 150)
    killed(engine, path)
    last = segments(path)[-1]
    whole = last.read_bytes()
    used = used_bytes(last)
    cuts = 0
    for _ in range(25):
        at = chance.randrange(used)
        kind = chance.choice(("zeros", "shorter", "garbage", "sector"))
        match kind:
            case "zeros":
                data = whole[:at] + bytes(len(whole) - at)
            case "shorter":
                data = whole[:at]
            case "garbage":
                data = whole[:at] + chance.randbytes(min(100, used - at)) + bytes(len(whole) - min(at + 100, used))
            case _:
                begin = at // 512 * 512
                data = whole[:begin] + bytes(512) + whole[begin + 512 :]
        last.write_bytes(data)
        judged = same_verdict(path, f"{kind} at {at} of {last}")
        cuts += judged[0] == "open" and bool(judged[1][2])
        assert judged[0] == "open" or kind in ("sector", "garbage"), f"{kind} at {at}: {judged}; {REPLAY}"
    assert cuts > 5


@pytest.mark.random
@pytest.mark.parametrize("ended", ["closed", "killed"])
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("writer", NAMES)
def test_a_flipped_bit_gets_the_same_verdict(writer: str, sync: bool, ended: str, tmp_path: Path) -> None:
    chance = Random(SEED)
    path = tmp_path / "data"
    engine = open_engine(writer, path, sync=sync)
    write(engine, SEED, 60)
    if chance.randrange(2):
        engine.checkpoint()
        write(engine, SEED + 1, 30)
    expected = state(engine)
    if ended == "killed":
        killed(engine, path)
    else:
        engine.close()
    verdicts = []
    for _ in range(FLIPS):
        file = chance.choice([*segments(path), *(path / "checkpoint").iterdir()])
        before = file.read_bytes()
        at = chance.randrange(min(used_bytes(file) + 16, len(before)))
        data = bytearray(before)
        data[at] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        verdicts.append(same_verdict(path, f"a bit at {at} of {file}"))
        file.write_bytes(before)
    if sync or ended == "closed":  # else nothing need have been synced, and every flip may be a torn tail
        assert any(judged[0] == "corrupt" for judged in verdicts), REPLAY
    if sync and ended == "closed":  # everything was acknowledged, and the clean record says so
        assert all(judged[0] == "corrupt" or judged[1][0] == expected for judged in verdicts), REPLAY


@pytest.mark.parametrize("puts", [35, 300])
def test_what_the_writer_left_unsynced_is_synced_before_it_is_shown(
    puts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native engine goes on to the next segment before the one in front is on the disk."""
    path = tmp_path / "data"
    engine = open_engine("native", path)
    for _ in range(puts):
        engine.put(b"k", bytes(100))
    killed(engine, path)
    found = recovery.scan(str(path / "log"))
    sealed = [before.path for before, at in pairwise(found.end.segments) if at.header.last_number > found.durable]
    assert found.durable == max(record.durable for record, _ in found.records)
    assert sealed and (len(sealed) + 1 < len(found.end.segments)) == (puts > 100)
    names = {os.stat(file).st_ino: str(file) for file in segments(path)}
    synced: list[str] = []
    monkeypatch.setattr(log, "_sync_data", lambda fd: synced.append(names[os.fstat(fd).st_ino]))
    monkeypatch.setattr(log, "sync_directory", synced.append)
    open_engine("python", path, sync=True).close()
    assert synced[: len(sealed) + 2] == [str(path / "log"), *sealed, found.end.segments[-1].path]


@pytest.mark.parametrize("writer", NAMES)
@pytest.mark.parametrize("dropper", NAMES)
def test_meta_survives_the_segment_that_it_stood_in(writer: str, dropper: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with closing(open_engine(writer, path)) as engine:
        engine.write_meta(b"who I am")
        if writer == "python":  # an embedded store has no hard state; a member that is alone has
            engine._storage.log._append(log.HARD_STATE, ALONE)
        for number in range(200):
            engine.put(b"k%d" % (number % 9), bytes(100))
    first = segments(path)[0]
    with closing(open_engine(dropper, path)) as engine:
        for _ in range(2):
            engine.checkpoint()
            engine.put(b"k", b"v")
    assert not first.exists()
    found = recovery.scan(str(path / "log"))
    kept = {record.type: record.payload for record, _ in found.records if record.type in (log.META, log.HARD_STATE)}
    assert kept == {log.META: b"who I am"} | ({log.HARD_STATE: ALONE} if writer == "python" else {})
    for name in NAMES:
        with closing(open_engine(name, path)) as engine:
            assert engine.read_meta() == b"who I am" and engine.count(b"\0", b"\0") == 10


@pytest.mark.parametrize("writer", NAMES)
def test_a_store_without_raft_writes_none_of_its_bytes(writer: str, tmp_path: Path) -> None:
    """Entries are `term:u64 index:u64 batch` of term 1 and origin 0, as they were before there were members."""
    path = tmp_path / "data"
    with closing(open_engine(writer, path)) as engine:
        engine.put(b"a", b"1")
        engine.write_meta(b"meta")
        index = engine.checkpoint()
        engine.put(b"a", b"2")
    records = [record for record, _ in recovery.scan(str(path / "log")).records]
    assert [record.type for record in records] == [log.ENTRY, log.META, log.ENTRY, log.CLEAN]
    for number, record in ((1, records[0]), (2, records[2])):
        assert record.payload[:32] == struct.pack("<QQQQ", 1, number, 0, number)
    blocks = blocks_of(path / "checkpoint" / checkpoint.checkpoint_name(index))
    assert [type for type, _ in blocks] == [checkpoint.HEAD, checkpoint.RECORDS, checkpoint.META]
    assert blocks[0][1] == struct.pack("<QQQqQQ", 1, 1, 2, -1, 1, 1)


def forged(seal: Callable[[bytes], int]) -> bytes:
    """A record that would prove that everything in front of it was synced, at every offset modulo 8."""
    body = struct.pack("<IIB3sQQ", 0, 0, log.CLEAN, b"\0\0\0", 1 << 40, (1 << 40) - 1)
    return (struct.pack("<I", seal(body)) + body + b"\0") * 8


@pytest.mark.parametrize("seed", [0, crc32c(b"salted  ")], ids=["unsalted", "other_salt"])
@pytest.mark.parametrize("writer", NAMES)
def test_a_value_that_holds_a_valid_record_does_not_turn_a_torn_tail_into_damage(
    writer: str, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    value = forged(lambda body: crc32c(body, seed))
    assert log.decode_record(value, 0, seed) is not None
    engine = open_engine(writer, path)
    engine.put(b"kept", b"1")
    engine.put(b"lost", b"torn")
    engine.put(b"later", value)
    killed(engine, path)
    (segment,) = segments(path)
    segment.write_bytes(segment.read_bytes().replace(b"torn", b"TORN"))
    kind, result, _ = same_verdict(path, "a forged record")
    assert kind == "open"
    assert [kv.key for kv in result[0]["keys"]] == [b"kept"]


@pytest.mark.parametrize("writer", NAMES)
def test_a_lost_header_is_damage_and_not_a_torn_tail(writer: str, tmp_path: Path) -> None:
    """The salt goes with it: without the rule every record behind it would vanish without a word."""
    path = tmp_path / "data"
    with closing(open_engine(writer, path, sync=True)) as engine:
        engine.put(b"a", bytes(600) + b"1")
    (segment,) = segments(path)
    segment.write_bytes(bytes(512) + segment.read_bytes()[512:])
    assert same_verdict(path, "a lost header") == ("corrupt", segment.name, [])


def write_long_history(engine: Any) -> Path:
    """One key whose history fills more than four blocks of a checkpoint, between two short ones; returns the file."""
    for key in (b"a", b"z"):
        engine.put(key, b"short")
    for number in range(260):
        engine.put(b"long", bytes([number & 0xFF]) * 4096)
    engine.delete(b"long")
    return Path(engine.path) / "checkpoint" / checkpoint.checkpoint_name(engine.checkpoint())


def blocks_of(file: Path) -> list[tuple[int, bytes]]:
    return [(type, payload) for _, type, payload in checkpoint._verified_blocks(file.read_bytes())]


def write_blocks(file: Path, blocks: list[tuple[int, bytes]]) -> None:
    """A checkpoint of these blocks with every checksum right."""
    encoded = [checkpoint._encode_block(*block) for block in blocks]
    crcs = b"".join(block[:4] for block in encoded)
    footer = checkpoint._FOOTER.pack(len(blocks), crc32c(crcs), 0)
    file.write_bytes(b"".join([checkpoint.MAGIC, *encoded, checkpoint._encode_block(checkpoint.FOOTER, footer)]))


@pytest.mark.parametrize("writer", NAMES)
def test_a_history_larger_than_a_block_is_read_by_both(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with closing(open_engine(writer, path)) as engine:
        file = write_long_history(engine)
        expected, history = state(engine), engine.history(b"long")
    sizes = [len(payload) for type, payload in blocks_of(file) if type == checkpoint.RECORDS]
    assert len(sizes) == 5 and max(sizes) < checkpoint.RECORDS_BLOCK_BYTES + 4200
    shutil.rmtree(path / "log")  # the checkpoint alone
    (path / "log").mkdir()
    for name in NAMES:
        with closing(open_engine(name, copy_of(path, name))) as engine:
            assert state(engine) == expected
            assert engine.history(b"long") == history and len(history) == 261
            assert len(engine.scan(b"long", b"", 100, 0, False, protocol.VALUES)[0]) == 4096
            engine.put(b"long", b"goes on")
            assert len(engine.history(b"long")) == 262


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda records: records[1:], "a record continues a chain that has not begun"),
        (lambda records: [records[0], records[2], records[1], *records[3:]], "the revisions of a key do not rise"),
        (lambda records: [records[0], *records], "the keys do not ascend"),
        (lambda records: [*records[:3], records[1].replace(b"long", b"lung")], "continued by a record of another key"),
        (lambda records: [*records[:2], *records[3:]], ""),  # a piece is missing: the head's count says so
    ],
    ids=["continues_nothing", "revisions_do_not_rise", "begun_twice", "another_key", "a_piece_is_missing"],
)
def test_blocks_that_do_not_continue_each_other_are_damage(damage: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with closing(open_engine("python", path)) as engine:
        file = write_long_history(engine)
    blocks = blocks_of(file)
    records = damage([payload for type, payload in blocks if type == checkpoint.RECORDS])
    write_blocks(file, [blocks[0], *((checkpoint.RECORDS, payload) for payload in records)])
    shutil.rmtree(path / "log")
    (path / "log").mkdir()
    for name in NAMES:
        with pytest.raises(CorruptError, match=f"{file.name}.*{reason}"):
            open_engine(name, path)


def test_checkpoints_of_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    files = []
    for name in NAMES:
        with closing(open_engine(name, tmp_path / name)) as engine:
            write(engine, SEED, 100)
            while not engine.compact_step(1000):
                pass
            index = engine.checkpoint()
            files.append((tmp_path / name / "checkpoint" / checkpoint.checkpoint_name(index)).read_bytes())
    assert files[0] == files[1], REPLAY


def test_blocks_are_cut_at_the_same_records(tmp_path: Path) -> None:
    files = []
    for name in NAMES:
        with closing(open_engine(name, tmp_path / name)) as engine:
            files.append(write_long_history(engine).read_bytes())
    assert files[0] == files[1]
