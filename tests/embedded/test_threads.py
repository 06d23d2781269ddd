"""Many threads on one store: shared syncs, readers that see one revision, no lost writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastkv


def together(*functions: Callable[[], Any]) -> None:
    """Run them at the same time; raise the first exception of any."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            function()
        except (AssertionError, fastkv.Error) as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_that_put_durably_share_syncs(open_db: Any, path: Path) -> None:
    db = open_db(path)
    before = db.stats().syncs

    def write(name: int) -> None:
        for number in range(40):
            db.put(f"{name}/{number}", "1")

    together(*(lambda name=name: write(name) for name in range(8)))  # type: ignore[misc]
    assert len(db) == 320 and db.revision == 321
    assert db.stats().syncs - before < 320
    db.close()
    assert len(open_db(path)) == 320


def test_readers_see_one_revision_while_others_write_and_compact(db: fastkv.DB) -> None:
    db.put_many({f"key {number:03}": "0" for number in range(100)})
    done = threading.Event()

    def write() -> None:
        for number in range(1, 60):
            db.put_many({f"key {key:03}": str(number) for key in range(100)})
        done.set()

    def compact() -> None:
        while not done.is_set():
            revision = db.revision
            if revision - 5 > max(db.compact_revision, 0):
                db.compact(revision - 5)

    def read() -> None:
        while not done.is_set():
            try:
                values = set(db.values())
                assert len(values) == 1, values
                assert len(set(db.get_many(["key 000", "key 050", "key 099"]))) == 1
                view = db.at(db.revision)
                assert set(view.values()) == {view["key 007"]}
            except fastkv.CompactedError:
                continue  # overtaken: an answer, not a wrong one

    together(write, compact, read, read)


def test_every_write_has_a_revision_of_its_own(db: fastkv.DB) -> None:
    revisions: list[int] = []

    def write() -> None:
        mine = [db.put("a", "1") for _ in range(100)]
        assert mine == sorted(mine)
        revisions.extend(mine)

    together(*[write] * 8)
    assert sorted(revisions) == list(range(2, 802))
    kv = db.get_kv("a")
    assert kv is not None and kv.version == 800
