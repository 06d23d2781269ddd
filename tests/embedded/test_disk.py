"""
A full disk and a disk that fails, through the embedded API on both engines: system calls that fail in one thread.

Promises: a write that finds no space raises QuotaError and changes nothing, reads go on, and with space writes work
again; a failed fsync ends the writes (PoisonedError names the reason); a reopen has every acknowledged write.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastkv
from support.syscalls import SYNCS, WRITES, failing

SMALL = {"segment_bytes_max": 8192}


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("calls", [("fallocate",), WRITES], ids=["no_new_segment", "no_write_at_all"])
def test_a_full_disk_refuses_writes_until_there_is_space(
    open_db: Any, path: Path, tmp_path: Path, sync: bool, calls: tuple[str, ...]
) -> None:
    db = open_db(path, sync=sync, **SMALL)
    expected = {}
    for number in range(20):
        db.put(f"k{number % 7}", f"{number}" * 50)
        expected[b"k%d" % (number % 7)] = b"%d" % number * 50
    revision = db.revision
    for size in (10_000, 100_000, 10_000):  # a segment of its own each
        with pytest.raises(fastkv.QuotaError, match="No space left on device"):
            failing(dict.fromkeys(calls, errno.ENOSPC), lambda size=size: db.put("new", "x" * size))
        assert db.revision == revision and dict(db.items()) == expected and "new" not in db
    assert db.put("new", "y" * 10_000) == revision + 1
    assert db.put("k0", "after") == revision + 2
    expected |= {b"new": b"y" * 10_000, b"k0": b"after"}
    db.sync()
    shutil.copytree(path, tmp_path / "killed")
    db.close()
    for where in (path, tmp_path / "killed"):
        again = open_db(where, **SMALL)
        assert (again.revision, dict(again.items())) == (revision + 2, expected)


def test_a_write_that_needs_no_new_space_succeeds_on_a_full_disk(open_db: Any, path: Path) -> None:
    db = open_db(path)
    db.put("a", "1")
    assert failing({"fallocate": errno.ENOSPC}, lambda: db.put("a", "2")) == 3


def test_a_full_disk_does_not_keep_a_store_from_opening_or_closing(open_db: Any, path: Path) -> None:
    full = dict.fromkeys(WRITES, errno.ENOSPC)
    with open_db(path) as db:
        db.put("a", "1")
    db = failing(full, lambda: open_db(path))
    assert db["a"] == b"1"
    with pytest.raises(fastkv.QuotaError):
        failing(full, lambda: db.put("a", "2"))
    failing(full, db.close)
    assert dict(open_db(path).items()) == {b"a": b"1"}


@pytest.mark.parametrize("later", ["put", "sync", "checkpoint"])
def test_a_failed_fsync_ends_the_writes_and_says_why(open_db: Any, path: Path, tmp_path: Path, later: str) -> None:
    db = open_db(path, **SMALL)
    db.put("a", "acknowledged")
    with pytest.raises(fastkv.PoisonedError, match="Input/output error"):
        failing(dict.fromkeys(SYNCS, errno.EIO), lambda: db.put("a", "in doubt"))
    assert db["a"] == b"acknowledged" and db.revision == 2
    act = {"put": lambda: db.put("b", "no"), "sync": db.sync, "checkpoint": lambda: db.backup(tmp_path / "copy")}[later]
    for _ in range(2):  # for good: the disk is healthy again
        with pytest.raises(fastkv.PoisonedError, match="Input/output error"):
            act()
    assert db["a"] == b"acknowledged"
    db.close()
    again = open_db(path, **SMALL)
    assert again["a"] in (b"acknowledged", b"in doubt") and "b" not in again
    again.put("a", "goes on")


def test_a_new_segment_that_cannot_be_synced_ends_the_writes(open_db: Any, path: Path) -> None:
    db = open_db(path, sync=False, **SMALL)
    db.put("a", "1")
    with pytest.raises(fastkv.PoisonedError, match="Input/output error"):
        failing(dict.fromkeys(SYNCS, errno.EIO), lambda: db.put("big", "x" * 10_000))
    with pytest.raises(fastkv.PoisonedError):
        db.put("a", "2")
    db.close()
    assert dict(open_db(path).items()) == {b"a": b"1"}
