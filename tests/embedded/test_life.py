"""From open to close: options, locks, foreign directories, readonly, fork, pickle, and what importing costs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastkv


def python(script: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# -- open -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_when_it_is_opened_again(open_db: Any, path: Path) -> None:
    with open_db(path) as db:
        db.put("a", "1")
    assert db.closed
    with open_db(str(path)) as db:
        assert db["a"] == b"1" and db.revision == 2


def test_a_store_in_memory_leaves_nothing_behind(open_db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_db(":memory:").put("a", "1")
    assert open_db().get("a") is None
    assert list(tmp_path.iterdir()) == []


def test_parents_are_made(open_db: Any, path: Path) -> None:
    open_db(path / "deep" / "down").put("a", "1")
    assert (path / "deep" / "down" / "FASTKV").read_bytes() == b"fastkv 2\n"


def test_create_false_wants_a_store(open_db: Any, path: Path) -> None:
    with pytest.raises(fastkv.StorageError, match="create=False") as caught:
        open_db(path, create=False)
    assert caught.value.number == fastkv.Code.NOT_FOUND and not path.exists()
    open_db(path).close()
    open_db(path, create=False).put("a", "1")


@pytest.mark.parametrize(
    ("path", "options", "error"),
    [
        ("", {}, ValueError),
        (b"data", {}, TypeError),
        (5, {}, TypeError),
        (None, {}, TypeError),
        (":memory:", {"readonly": True}, ValueError),
        (":memory:", {"checkpoint_bytes": 0}, ValueError),
        (":memory:", {"checkpoint_bytes": -1}, ValueError),
        (":memory:", {"segment_bytes_max": "1"}, TypeError),
        (":memory:", {"map_size": 1}, TypeError),
    ],
)
def test_impossible_options(open_db: Any, path: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        open_db(path, **options)


def test_the_engine_is_obeyed_or_refused(open_db: Any, engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_db().engine == engine_name
    monkeypatch.setenv("FASTKV_ENGINE", engine_name)
    assert fastkv.engine_name() == engine_name
    with fastkv.open(":memory:") as db:
        assert db.engine == engine_name
    monkeypatch.setenv("FASTKV_ENGINE", "rust")
    for call in (fastkv.engine_name, lambda: fastkv.open(":memory:"), lambda: fastkv.open(":memory:", engine="rust")):  # type: ignore[arg-type]
        with pytest.raises(ImportError, match="rust"):
            call()


def test_a_file_is_not_a_directory(open_db: Any, path: Path) -> None:
    path.write_text("something of yours")
    for readonly in (False, True):
        with pytest.raises(fastkv.FormatError, match="file, not a directory"):
            open_db(path, readonly=readonly)
    assert path.read_text() == "something of yours"


def test_a_directory_of_something_else_is_left_alone(open_db: Any, path: Path) -> None:
    path.mkdir()
    (path / "data.mdb").write_text("lmdb's")
    for readonly in (False, True):
        with pytest.raises(fastkv.FormatError, match="not a fastkv directory"):
            open_db(path, readonly=readonly)
    assert [file.name for file in path.iterdir()] == ["data.mdb"]


def test_a_newer_format_is_refused(open_db: Any, path: Path) -> None:
    open_db(path).close()
    (path / "FASTKV").write_bytes(b"fastkv 3\n")
    with pytest.raises(fastkv.FormatError, match="newer"):
        open_db(path)


def test_what_the_system_refuses_is_a_storage_error(open_db: Any) -> None:
    with pytest.raises(fastkv.StorageError, match="/proc/fastkv") as caught:
        open_db("/proc/fastkv/data")
    assert isinstance(caught.value, OSError)


# -- locks ----------------------------------------------------------------------------------------------------

HOLD = """
import sys, fastkv
db = fastkv.open(sys.argv[1], engine=sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_has_the_lock(open_db: Any, engine_name: str, path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path), engine_name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        for _ in range(2):  # a failed open does not drop the lock of the other
            with pytest.raises(fastkv.LockedError, match=str(holder.pid)) as caught:
                open_db(path)
            assert caught.value.pid == holder.pid and caught.value.retryable
        holder.stdin.close()
        assert holder.wait(60) == 0
    open_db(path).put("a", "1")


def test_the_same_process_cannot_open_it_twice(open_db: Any, engine_name: str, path: Path) -> None:
    db = open_db(path)
    with pytest.raises(fastkv.LockedError) as caught:
        open_db(path)
    assert caught.value.pid == os.getpid()
    other = python(HOLD, path, engine_name, stdin=subprocess.DEVNULL)
    assert "LockedError" in other.stderr and str(os.getpid()) in other.stderr
    db.put("a", "1")


def test_the_lock_dies_with_its_process(open_db: Any, engine_name: str, path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path), engine_name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        holder.kill()
    open_db(path).put("a", "1")


# -- readonly -------------------------------------------------------------------------------------------------


def test_readonly_shows_the_directory_as_it_was_opened(open_db: Any, path: Path) -> None:
    db = open_db(path)
    db.put("a", "1")
    reader = open_db(path, readonly=True)
    db.put("a", "2")
    assert reader["a"] == b"1" and reader.readonly and "readonly" in repr(reader)
    assert open_db(path, readonly=True)["a"] == b"2"
    for write in (
        lambda: reader.put("a", "3"),
        lambda: reader.delete("a"),
        lambda: reader.put_many({"a": "3"}),
        lambda: reader.txn().then(fastkv.put("a", "3")).commit(),
        lambda: reader.compact(2),
        lambda: reader.put("a", "3", ttl=5),
        lambda: reader.backup(path.parent / "backup"),
    ):
        with pytest.raises(fastkv.ReadOnlyError):
            write()
    assert reader["a"] == b"1"


def test_readonly_makes_nothing(open_db: Any, path: Path) -> None:
    with pytest.raises(fastkv.StorageError):
        open_db(path, readonly=True)
    assert not path.exists()


def test_readonly_of_a_closed_store(open_db: Any, path: Path) -> None:
    with open_db(path) as db:
        db.put("a", "1")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with open_db(path, readonly=True) as reader:
        assert dict(reader) == {b"a": b"1"} and reader.check() == []
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


# -- close ----------------------------------------------------------------------------------------------------


EXIT = """
import sys
import fastkv

class Failing:
    def __init__(self, real):
        self.real = real

    def close(self):
        self.real.close()
        print("closed", flush=True)
        raise fastkv.StorageError("the disk failed")

stores = [fastkv.open(path, engine=sys.argv[1]) for path in sys.argv[2:]]
for store in stores:
    store._engine = Failing(store._engine)
"""


def test_a_close_that_fails_at_exit_does_not_keep_the_others_open(engine_name: str, tmp_path: Path) -> None:
    ran = python(EXIT, engine_name, tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert ran.stdout == "closed\n" * 3
    assert "the disk failed" in ran.stderr


def test_after_close_everything_raises_closed_error(open_db: Any, path: Path) -> None:
    db = open_db(path)
    view, batch, txn, items = db.at(1), db.batch(), db.txn(), db.items()
    batch.put("a", "1")
    db.close()
    db.close()
    for use in (
        lambda: db.get("a"),
        lambda: db.get_kv("a"),
        lambda: db.get_many(["a"]),
        lambda: db["a"],
        lambda: "a" in db,
        lambda: len(db),
        lambda: list(db),
        lambda: db.items(),
        lambda: list(items),
        lambda: db.put("a", "1"),
        lambda: db.put("a", "1", ttl=5),
        lambda: db.__setitem__("a", "1"),
        lambda: db.put_many({"a": "1"}),
        lambda: db.delete("a"),
        lambda: batch.commit(),
        lambda: txn.commit(),
        lambda: db.transact(lambda t: t.get("a")),
        lambda: db.at(1),
        lambda: view["a"],
        lambda: db.history("a"),
        lambda: db.watch("a"),
        lambda: db.lease(5),
        lambda: db.leases(),
        lambda: db.compact(1),
        lambda: db.backup(path / "backup"),
        lambda: db.check(),
        lambda: db.stats(),
        lambda: db.sync(),
        lambda: db.revision,
    ):
        with pytest.raises(fastkv.ClosedError, match="closed"):
            use()
    assert db.closed and repr(db) == f"<fastkv.DB path={str(path)!r} engine={db.engine} closed>"


def test_close_while_others_work(open_db: Any, path: Path) -> None:
    db = open_db(path, sync=False)
    started = threading.Barrier(5)
    last: list[int] = []

    def work() -> None:
        started.wait()
        revision = 0
        try:
            while True:
                revision = db.put("a", "1")
                db.get("a")
        except fastkv.ClosedError:
            last.append(revision)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    db.close()
    for thread in threads:
        thread.join(60)
    assert len(last) == 4
    assert open_db(path).revision == max(1, *last)


def test_repr_says_what_it_is(open_db: Any, path: Path) -> None:
    db = open_db(path)
    db.put_many({"a": "1", "b": "2"})
    assert repr(db) == f"<fastkv.DB path={str(path)!r} revision=2 keys=2 engine={db.engine} open>"
    assert db.path == str(path) and not db.readonly


def test_a_store_nobody_closed_is_closed_at_exit_or_when_dropped(open_db: Any, engine_name: str, path: Path) -> None:
    script = (
        "import sys, fastkv; db = fastkv.open(sys.argv[1], engine=sys.argv[2]); db.put('a', '1', lease=db.lease(60)); "
        "watch = db.watch('a')"
    )
    done = python(script, path, engine_name)
    assert (done.returncode, done.stderr) == (0, "")
    db = fastkv.open(path, engine=engine_name)  # type: ignore[arg-type]
    assert db["a"] == b"1"
    with pytest.warns(ResourceWarning, match="unclosed <fastkv.DB"):
        del db
    assert open_db(path)["a"] == b"1"


def test_stats_and_check(open_db: Any, path: Path) -> None:
    db = open_db(path)
    db.put_many({"a": "1", "b": "2"})
    db.put("a", "3")
    db.delete("b")
    db.lease(60)
    watch = db.watch("a")
    stats = db.stats()
    assert (stats.engine, stats.keys, stats.records, stats.revision) == (db.engine, 1, 4, 4)
    assert (stats.compact_revision, stats.leases, stats.watchers) == (-1, 1, 1)
    assert stats.batches >= 4 and stats.commands >= 4 and stats.syncs >= 4 and stats.memory_bytes > 0
    assert db.check() == []
    watch.close()


def test_sync_makes_durable_what_was_written_without(open_db: Any, path: Path) -> None:
    db = open_db(path, sync=False)
    before = db.stats().syncs
    for number in range(50):
        db.put("a", str(number))
    lazy = db.stats().syncs - before
    db.sync()
    assert lazy < 50 and db.stats().syncs > before


# -- pickle and fork ------------------------------------------------------------------------------------------


def test_a_pickled_store_opens_readonly(open_db: Any, path: Path) -> None:
    db = open_db(path)
    db.put("a", "1")
    with pickle.loads(pickle.dumps(db)) as copy:
        assert copy["a"] == b"1" and copy.readonly and copy.engine == db.engine
    with pytest.raises(TypeError, match="memory"):
        pickle.dumps(open_db())


FORK = """
import os, sys, fastkv
db = fastkv.open(sys.argv[1], engine=sys.argv[2])
lease = db.lease(60)
db.put("a", "1", lease=lease)
watch, view, batch, items = db.watch("a"), db.at(2), db.batch(), db.items()
batch.put("a", "child")
child = os.fork()
if child == 0:
    for use in (lambda: db.get("a"), lambda: db.put("a", "2"), lambda: db["a"], lambda: list(db), lambda: next(watch),
                lambda: view["a"], batch.commit, lease.keepalive, lambda: list(items), lambda: db.stats()):
        try:
            use()
        except fastkv.ForkedError as error:
            assert "parent process" in str(error)
        else:
            raise SystemExit("no ForkedError")
    db.close()
    watch.close()
    assert "closed" in repr(db)
    with fastkv.open(sys.argv[1], engine=sys.argv[2], readonly=True) as reader:
        assert reader["a"] == b"1"
    try:
        fastkv.open(sys.argv[1], engine=sys.argv[2])
    except fastkv.LockedError as error:
        assert error.pid == os.getppid()
    with fastkv.open(sys.argv[1] + "-child", engine=sys.argv[2]) as own:
        own.put("a", "1")
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert db.put("a", "parent") == 3 and lease.keepalive() == 60
assert next(watch).revision == 3
db.close()
with fastkv.open(sys.argv[1], engine=sys.argv[2]) as db:
    assert db["a"] == b"parent" and db.revision == 3 and db.check() == []
"""


def test_a_forked_child_gets_a_clear_error_and_harms_nothing(engine_name: str, path: Path) -> None:
    done = python(FORK, path, engine_name)
    assert (done.returncode, done.stderr) == (0, "")


# -- import ---------------------------------------------------------------------------------------------------


def test_using_the_store_loads_no_heavy_module(engine_name: str, path: Path) -> None:
    script = """
import sys, fastkv
with fastkv.open(sys.argv[1], engine=sys.argv[2]) as db:
    db.put("a", "1", ttl=5)
    with db.batch() as batch:
        batch.put("b", "1")
    assert db.txn().when(fastkv.key("a").version == 1).then(fastkv.get("a")).commit()
heavy = {"google.protobuf", "grpc", "asyncio", "ssl", "_ssl", "logging", "msgpack", "click"}
print(sorted(heavy & set(sys.modules)), "fastkv.python" in sys.modules)
"""
    done = python(script, path, engine_name)
    assert done.stdout.strip() == f"[] {engine_name == 'python'}", done.stderr


def test_every_public_name_is_documented() -> None:
    undocumented = [name for name in fastkv.__all__ if name[0] != "_" and not getattr(fastkv, name).__doc__]
    assert undocumented == []
    assert len(set(fastkv.__all__)) == len(fastkv.__all__)
    for cls in (fastkv.DB, fastkv.View, fastkv.Watch, fastkv.Lease, fastkv.Batch, fastkv.Txn, fastkv.Transaction):
        methods = [name for name, member in vars(cls).items() if callable(member) and name[0] != "_"]
        assert [f"{cls.__name__}.{name}" for name in methods if not getattr(cls, name).__doc__] == []
