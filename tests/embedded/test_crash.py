"""kill -9 of a writing process: every acknowledged write is there afterwards, and nothing that was not written."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastkv
from embedded import crash_writer

KILLS = 16  # of each kind; times two kinds and two engines


@pytest.mark.parametrize("sync", ["sync", "async"])
def test_kill_9(open_db: Any, engine_name: str, path: Path, sync: str) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    model: crash_writer.Model = {}
    applied = 0
    for round in range(KILLS):
        acknowledged = kill_a_writer(path, engine_name, seed, sync, chance.randrange(1, 60))
        db = open_db(path, **crash_writer.SMALL)
        revision = db.revision
        # One writer: at most one operation was under way when it died.
        assert acknowledged <= revision <= acknowledged + 1, f"seed {seed}, round {round}"
        while applied < revision - 1:
            crash_writer.apply_to_model(model, seed, applied)
            applied += 1
        assert dict(db.items()) == model, f"seed {seed}, round {round}"
        assert db.check() == []
        db.close()


def kill_a_writer(path: Path, engine: str, seed: int, sync: str, after: int) -> int:
    """Kill it when it has acknowledged `after` writes; returns the last revision that it has acknowledged."""
    command = [sys.executable, crash_writer.__file__, str(path), engine, str(seed), sync]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        lines = []
        for line in writer.stdout:
            lines.append(line)
            if len(lines) == after:
                writer.kill()
        assert writer.wait() == -9, b"".join(lines)
    return max(int(line) for line in lines if line.endswith(b"\n"))


def crashed_copy(db: fastkv.DB, path: Path, copy: Path) -> Path:
    """What a crash would leave of a store that is open: its newest log segment with anything in it."""
    db.sync()
    shutil.copytree(path, copy)
    return max(segment for segment in (copy / "log").iterdir() if segment.read_bytes().strip(b"\0"))


def test_a_torn_tail_is_cut_and_logged(open_db: Any, path: Path, tmp_path: Path) -> None:
    db = open_db(path)
    for number in range(10):
        db.put("a", str(number))
    segment = crashed_copy(db, path, tmp_path / "copy")
    data = bytearray(segment.read_bytes())
    end = (len(data.rstrip(b"\0")) + 7) // 8 * 8
    data[end : end + 40] = b"\xa5" * 40
    segment.write_bytes(data)
    lines: list[str] = []
    copy = open_db(tmp_path / "copy", log=lines.append)
    assert copy["a"] == b"9" and copy.revision == 11
    assert any("torn" in line or "cut" in line for line in lines), lines
    assert copy.put("a", "goes on") == 12
    copy.close()
    assert open_db(tmp_path / "copy")["a"] == b"goes on"


def test_a_log_line_goes_to_logging_by_default(
    open_db: Any, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = open_db(path)
    db.put("a", "1")
    segment = crashed_copy(db, path, tmp_path / "copy")
    data = bytearray(segment.read_bytes())
    end = (len(data.rstrip(b"\0")) + 7) // 8 * 8
    data[end : end + 8] = b"\xa5" * 8
    segment.write_bytes(data)
    open_db(tmp_path / "copy")
    assert [record.name for record in caplog.records] and {record.name for record in caplog.records} == {"fastkv"}


def test_damage_before_the_tail_refuses_to_open(open_db: Any, path: Path, tmp_path: Path) -> None:
    db = open_db(path)
    for number in range(10):
        db.put("a", f"value {number}")
    segment = crashed_copy(db, path, tmp_path / "copy")
    data = bytearray(segment.read_bytes())
    at = data.index(b"value 3")
    data[at] ^= 1
    segment.write_bytes(data)
    before = segment.read_bytes()
    for readonly in (False, True):
        with pytest.raises(fastkv.CorruptError) as caught:
            open_db(tmp_path / "copy", readonly=readonly)
        assert segment.name in str(caught.value) and "offset" in str(caught.value), str(caught.value)
        assert "fastkv check" in str(caught.value)
        assert caught.value.code == fastkv.GrpcCode.DATA_LOSS
    assert segment.read_bytes() == before


def test_a_damaged_checkpoint_refuses_to_open(open_db: Any, path: Path) -> None:
    db = open_db(path, checkpoint_bytes=1 << 10, segment_bytes_max=4 << 10)
    for number in range(300):
        db.put(f"key {number % 20}", f"value {number}" + "x" * 100)
    db.backup(path / "checkpoint" / "copy")  # makes a checkpoint of now
    (path / "checkpoint" / "copy").unlink()
    db.close()
    checkpoints = sorted((path / "checkpoint").iterdir())
    assert checkpoints
    for checkpoint in checkpoints:
        data = bytearray(checkpoint.read_bytes())
        data[len(data) // 2] ^= 1
        checkpoint.write_bytes(data)
    lines: list[str] = []
    with pytest.raises(fastkv.CorruptError) as caught:
        open_db(path, log=lines.append)
    assert checkpoints[-1].name in "".join([*lines, str(caught.value)])
