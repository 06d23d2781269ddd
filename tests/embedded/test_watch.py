"""Watches: whole revisions, in order, exactly once, from any uncompacted revision, closable from any thread."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import fastkv
from fastkv import Event, EventType, KeyValue, WatchBatch

WAIT_S = 20.0  # for what must happen; nothing here waits that long


def drain(watch: fastkv.Watch) -> list[WatchBatch]:
    batches = []
    while (batch := watch.poll()) is not None:
        batches.append(batch)
    return batches


def told(batches: Iterable[WatchBatch]) -> list[tuple[int, list[tuple[str, bytes]]]]:
    return [(batch.revision, [(event.type, event.kv.key) for event in batch]) for batch in batches]


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, queue.SimpleQueue[Any]]:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(function())
        except fastkv.Error as error:
            answers.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def test_a_watch_hands_out_whole_revisions(db: fastkv.DB) -> None:
    with db.watch(prefix="a") as watch:
        db.put("a1", "1")
        with db.batch() as batch:
            batch.put("a2", "2")
            batch.put("b", "not watched")
            batch.delete("a1")
        db.put("b", "not watched")
        assert told(drain(watch)) == [(2, [("PUT", b"a1")]), (3, [("DELETE", b"a1"), ("PUT", b"a2")])]


def test_events_say_what_happened(db: fastkv.DB) -> None:
    watch = db.watch("a", prev_kv=True)
    db.put("a", "1")
    db.put("a", "2")
    db.delete("a")
    one, two = KeyValue(b"a", b"1", 2, 2, 1, 0), KeyValue(b"a", b"2", 2, 3, 2, 0)
    gone = KeyValue(b"a", b"", 0, 4, 0, 0)
    assert drain(watch) == [
        WatchBatch(2, (Event(EventType.PUT, one, None),)),
        WatchBatch(3, (Event(EventType.PUT, two, one),)),
        WatchBatch(4, (Event(EventType.DELETE, gone, two),)),
    ]


def test_prev_kv_only_if_asked_for(db: fastkv.DB) -> None:
    watch = db.watch("a")
    db.put("a", "1")
    db.delete("a")
    assert [event.prev_kv for batch in drain(watch) for event in batch] == [None, None]


def test_batches_are_records(db: fastkv.DB) -> None:
    watch = db.watch("a")
    db.put("a", "1")
    batch = watch.poll()
    match batch:
        case WatchBatch(2, (Event("PUT", KeyValue(key=b"a")),)):
            pass
        case other:
            pytest.fail(repr(other))
    assert batch is not None and len(batch) == 1 and hash(batch) == hash(WatchBatch(2, batch.events))
    assert repr(batch).startswith("WatchBatch(revision=2, events=(Event(")
    with pytest.raises(AttributeError):
        batch.revision = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bounds", "seen"),
    [
        ({"key": "b"}, ["b"]),
        ({"prefix": ""}, ["a", "b", "b1", "c"]),
        ({"prefix": "b"}, ["b", "b1"]),
        ({"start": "b"}, ["b", "b1", "c"]),
        ({"stop": "b1"}, ["a", "b"]),
        ({"start": "b", "stop": "c"}, ["b", "b1"]),
    ],
)
def test_watched_ranges(db: fastkv.DB, bounds: dict[str, str], seen: list[str]) -> None:
    live = db.watch(**bounds)  # type: ignore[arg-type]
    for key in ("a", "b", "b1", "c"):
        db.put(key, "1")
    late = db.watch(**bounds, start_revision=1)  # type: ignore[arg-type]
    for watch in (live, late):
        assert [event.kv.key.decode() for batch in drain(watch) for event in batch] == seen


def test_filters(db: fastkv.DB) -> None:
    puts, deletes = db.watch("a", deletes=False), db.watch("a", puts=False)
    db.put("a", "1")
    db.delete("a")
    assert told(drain(puts)) == [(2, [("PUT", b"a")])]
    assert told(drain(deletes)) == [(3, [("DELETE", b"a")])]


def test_a_watch_begins_at_any_uncompacted_revision(db: fastkv.DB) -> None:
    for number in range(2, 12):
        db.put("a", str(number))
    db.compact(5)
    assert [batch.revision for batch in drain(db.watch("a", start_revision=5))] == list(range(5, 12))
    assert [batch.revision for batch in drain(db.watch("a", start_revision=8))] == [8, 9, 10, 11]
    assert drain(db.watch("a")) == []


def test_a_watch_of_the_future_waits_for_it(db: fastkv.DB) -> None:
    watch = db.watch("a", start_revision=4)
    for number in range(2, 7):
        db.put("a", str(number))
    assert [batch.revision for batch in drain(watch)] == [4, 5, 6]


def test_catching_up_splits_revisions_and_loses_none(db: fastkv.DB) -> None:
    for number in range(2, 3002):
        with db.batch() as batch:
            batch.put(f"a{number % 7}", str(number))
            batch.put(f"b{number % 5}", str(number))
    watch = db.watch(prefix="", start_revision=2)
    db.put("a0", "live")
    batches = drain(watch)
    assert [batch.revision for batch in batches] == list(range(2, 3003))
    assert [len(batch) for batch in batches] == [2] * 3000 + [1]


def test_a_compacted_start_raises_with_the_revision(db: fastkv.DB) -> None:
    for number in range(2, 12):
        db.put("a", str(number))
    db.compact(7)
    with pytest.raises(fastkv.CompactedError) as caught, db.watch("a", start_revision=3) as watch:
        next(watch)
    assert caught.value.compact_revision == 7
    assert caught.value.code == fastkv.GrpcCode.OUT_OF_RANGE
    with pytest.raises(fastkv.CompactedError):
        next(watch if not watch.closed else db.watch("a", start_revision=3))


def test_impossible_watches(db: fastkv.DB) -> None:
    with pytest.raises(fastkv.InvalidRequestError):
        db.watch(start="b", stop="a")
    with pytest.raises(fastkv.InvalidRequestError):
        db.watch("a", start_revision=-1)
    with pytest.raises(fastkv.InvalidRequestError):
        db.watch("a", timeout=-1)
    assert db.stats().watchers == 0


def test_iteration_ends_after_timeout_seconds_of_silence(db: fastkv.DB) -> None:
    db.put("a", "1")
    assert [batch.revision for batch in db.watch("a", start_revision=1, timeout=0.01)] == [2]
    assert db.watch("a").poll(timeout=0.01) is None


def test_a_waiting_watch_is_woken_by_a_write(db: fastkv.DB) -> None:
    watch = db.watch("a")
    thread, answers = in_thread(lambda: next(watch))
    db.put("a", "1")
    assert answers.get(timeout=WAIT_S).revision == 2
    thread.join(WAIT_S)


def test_close_from_another_thread_ends_the_iteration(db: fastkv.DB) -> None:
    watch = db.watch("a", start_revision=1)
    db.put("a", "1")
    first = threading.Event()

    def consume() -> list[int]:
        revisions = []
        for batch in watch:
            revisions.append(batch.revision)
            first.set()
        return revisions

    thread, answers = in_thread(consume)
    assert first.wait(WAIT_S)
    watch.close()
    assert answers.get(timeout=WAIT_S) == [2]
    thread.join(WAIT_S)
    assert watch.closed and watch.poll() is None and list(watch) == []
    watch.close()
    assert db.stats().watchers == 0


def test_closing_the_store_ends_watches_with_an_error(open_db: Any) -> None:
    db = open_db()
    watch = db.watch("a")
    thread, answers = in_thread(lambda: next(watch))
    db.close()
    assert isinstance(answers.get(timeout=WAIT_S), fastkv.ClosedError)
    thread.join(WAIT_S)
    watch.close()


def test_an_exception_in_a_consumer_touches_nobody_else(db: fastkv.DB) -> None:
    other = db.watch(prefix="")
    with pytest.raises(ZeroDivisionError), db.watch(prefix="") as watch:
        db.put("a", "1")
        for _ in watch:
            raise ZeroDivisionError
    db.put("a", "2")
    assert [batch.revision for batch in drain(other)] == [2, 3]
    assert db.stats().watchers == 1


def test_threads_that_share_a_watch_get_each_batch_once(db: fastkv.DB) -> None:
    watch = db.watch(prefix="", start_revision=2)
    got: queue.SimpleQueue[int] = queue.SimpleQueue()

    def consume() -> None:
        for batch in watch:
            got.put(batch.revision)

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        db.put("a", str(number))
    revisions = sorted(got.get(timeout=WAIT_S) for _ in range(300))
    watch.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert revisions == list(range(2, 302))


def test_watchers_in_threads_see_what_writers_in_threads_write(db: fastkv.DB) -> None:
    watches = [db.watch(prefix=str(number % 3)) for number in range(6)]
    writes = 100

    def consume(watch: fastkv.Watch) -> list[tuple[int, bytes]]:
        seen = []
        while len(seen) < 2 * writes:
            seen += [(batch.revision, event.kv.value) for batch in [next(watch)] for event in batch]
        return seen

    consumers = [in_thread(lambda watch=watch: consume(watch)) for watch in watches]  # type: ignore[misc]
    writers = [
        in_thread(lambda key=key: [db.put(f"{key % 3}/{key}", str(i)) for i in range(writes)]) for key in range(6)
    ]  # type: ignore[misc]
    written = [answers.get(timeout=60) for _, answers in writers]
    for number, (thread, answers) in enumerate(consumers):
        seen = answers.get(timeout=60)
        assert [revision for revision, _ in seen] == sorted(written[number % 3] + written[number % 3 + 3])
        thread.join(WAIT_S)


def test_a_watch_that_is_dropped_is_forgotten(db: fastkv.DB) -> None:
    db.watch("a")
    gc.collect()
    kept = db.watch("b")
    assert db.stats().watchers == 1
    assert repr(kept).endswith("open>")
