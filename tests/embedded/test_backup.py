"""Backups: a consistent copy as a stream or a file, and stores made of it."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

import fastkv


@pytest.fixture
def db(open_db: Any, path: Path) -> fastkv.DB:
    """A store with history, a lease and a compaction."""
    db: fastkv.DB = open_db(path)
    for number in range(200):
        db.put(f"key {number % 20:02}", f"value {number}")
    db.delete("key 03")
    db.compact(100)
    db.put("leased", "1", lease=db.lease(60, id=7))
    return db


@pytest.fixture(autouse=True)
def _engine(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTKV_ENGINE", engine_name)  # restore obeys it


def same(one: fastkv.DB, other: fastkv.DB) -> bool:
    return (
        one.revision == other.revision
        and one.compact_revision == other.compact_revision
        and list(one.range()) == list(other.range())
        and [one.history(key) for key in one] == [other.history(key) for key in other]
        and one.history("key 03") == other.history("key 03")
        and [(lease.id, lease.ttl, lease.keys) for lease in one.leases()]
        == [(lease.id, lease.ttl, lease.keys) for lease in other.leases()]
    )


def test_a_backup_to_a_stream_restores_everything(db: fastkv.DB, open_db: Any, tmp_path: Path) -> None:
    stream = io.BytesIO()
    assert db.backup(stream) == len(stream.getvalue()) > 0
    stream.seek(0)
    assert fastkv.restore(stream, tmp_path / "copy") == db.revision
    copy = open_db(tmp_path / "copy")
    assert same(db, copy)
    assert copy.put("a", "1") == db.revision + 1
    copy.close()
    assert open_db(tmp_path / "copy")["a"] == b"1"


def test_a_backup_to_a_file_appears_when_it_is_complete(db: fastkv.DB, open_db: Any, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    target.write_bytes(b"yesterday's")
    assert db.backup(target) == target.stat().st_size > 100
    assert fastkv.restore(str(target), str(tmp_path / "copy")) == db.revision
    assert same(db, open_db(tmp_path / "copy"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "copy", "data"]


def test_backups_and_what_is_restored_are_private_whatever_the_umask(db: fastkv.DB, tmp_path: Path) -> None:
    (tmp_path / "backup.tmp").touch(mode=0o666)  # left over by somebody who died
    before = os.umask(0)
    try:
        db.backup(tmp_path / "backup")
        fastkv.restore(tmp_path / "backup", tmp_path / "copy")
    finally:
        os.umask(before)
    modes = {
        str(file.relative_to(tmp_path)): stat.S_IMODE(file.stat().st_mode)
        for file in (tmp_path / "backup", tmp_path / "copy", *(tmp_path / "copy").rglob("*"))
    }
    files = {name: mode for name, mode in modes.items() if (tmp_path / name).is_file()}
    assert len(files) >= 3 and set(files.values()) == {0o600}, files
    folders = {name: mode for name, mode in modes.items() if name not in files}
    assert folders == dict.fromkeys(("copy", "copy/log", "copy/checkpoint"), 0o700)


class Trickle(io.RawIOBase):
    """A pipe at its worst: gives and takes a few bytes at a time."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def read(self, size: int = -1) -> bytes:
        piece = bytes(self.data[: min(size, 7)])
        del self.data[: len(piece)]
        return piece

    def write(self, piece: Any) -> int:
        taken = bytes(piece[:1000])
        self.data += taken
        return len(taken)


def test_pipes_that_move_a_few_bytes_at_a_time(db: fastkv.DB, open_db: Any, tmp_path: Path) -> None:
    pipe = Trickle()
    assert db.backup(pipe) == len(pipe.data)  # type: ignore[arg-type]
    assert fastkv.restore(Trickle(bytes(pipe.data)), tmp_path / "copy") == db.revision  # type: ignore[arg-type]
    assert same(db, open_db(tmp_path / "copy"))


def test_a_backup_through_a_real_pipe(db: fastkv.DB, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as target:

        def send() -> None:
            db.backup(target)
            target.close()

        sender = threading.Thread(target=send)
        sender.start()
        assert fastkv.restore(source, tmp_path / "copy") == db.revision
        sender.join()


def test_a_backup_that_fails_leaves_the_old_one(db: fastkv.DB, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    target.write_bytes(b"yesterday's")

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.backup(target, progress=fail)
    assert target.read_bytes() == b"yesterday's"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "data"]


def test_progress_is_told(db: fastkv.DB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.backup.COPY_BYTES", 64 << 10)
    db.put("large", b"x" * (200 << 10))
    told: list[tuple[int, int]] = []
    size = db.backup(tmp_path / "backup", progress=lambda *numbers: told.append(numbers))
    assert len(told) >= 3 and told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    told.clear()
    fastkv.restore(tmp_path / "backup", tmp_path / "copy", progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (size, size)


def test_a_backup_is_of_one_moment_while_others_write(db: fastkv.DB, open_db: Any, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            db.put_many({"x": str(number), "y": str(number)})

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(5):
        db.backup(tmp_path / f"backup {number}")
    stop.set()
    writer.join()
    revisions = []
    for number in range(5):
        revisions.append(fastkv.restore(tmp_path / f"backup {number}", tmp_path / f"copy {number}"))
        with open_db(tmp_path / f"copy {number}") as copy:
            assert copy.get("x") == copy.get("y")
    assert revisions == sorted(revisions)


def test_an_empty_store_can_be_backed_up(open_db: Any, tmp_path: Path) -> None:
    open_db(tmp_path / "empty").backup(tmp_path / "backup")
    assert fastkv.restore(tmp_path / "backup", tmp_path / "copy") == 1
    assert len(open_db(tmp_path / "copy")) == 0


def test_a_store_in_memory_says_it_cannot(open_db: Any, tmp_path: Path) -> None:
    with pytest.raises(fastkv.UnsupportedError, match="memory"):
        open_db().backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "more", "empty", "foreign"])
def test_a_damaged_backup_is_refused(db: fastkv.DB, tmp_path: Path, damage: str) -> None:
    backup = tmp_path / "backup"
    db.backup(backup)
    data = bytearray(backup.read_bytes())
    match damage:
        case "flip":
            data[len(data) // 2] ^= 1
        case "cut":
            del data[-20:]
        case "more":
            data += b"more"
        case "empty":
            data.clear()
        case "foreign":
            data[:] = b"SQLite format 3\0" + b"\0" * 100
    backup.write_bytes(data)
    error = fastkv.FormatError if damage in ("empty", "foreign") else fastkv.CorruptError
    with pytest.raises(error):
        fastkv.restore(backup, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    (tmp_path / "copy").mkdir()
    with pytest.raises(error):
        fastkv.restore(backup, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_restore_wants_an_empty_directory(db: fastkv.DB, tmp_path: Path) -> None:
    db.backup(tmp_path / "backup")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").touch()
    with pytest.raises(fastkv.FormatError, match="not empty"):
        fastkv.restore(tmp_path / "backup", tmp_path / "copy")
    assert [file.name for file in (tmp_path / "copy").iterdir()] == ["mine"]
    with pytest.raises(FileNotFoundError):
        fastkv.restore(tmp_path / "none", tmp_path / "copy2")
