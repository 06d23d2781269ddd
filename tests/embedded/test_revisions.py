"""The past: views at a revision, history, compaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastkv
from fastkv import Event, EventType, KeyValue


def test_a_view_shows_its_revision_whatever_is_written(db: fastkv.DB) -> None:
    db.put_many({"a": "1", "b": "1"})
    view = db.at(db.revision)
    db.put("a", "2")
    db.delete("b")
    assert view.revision == 2
    assert view.get("a") == view["a"] == b"1" and view.get("none") is None and view.get("none", b"x") == b"x"
    assert view.get_kv("a") == KeyValue(b"a", b"1", 2, 2, 1, 0)
    assert view.get_many(["b", "a", "c"]) == [b"1", b"1", None]
    assert list(view.items()) == [(b"a", b"1"), (b"b", b"1")]
    assert list(view.keys(prefix="b")) == [b"b"] and list(view.values(reverse=True)) == [b"1", b"1"]
    assert [kv.mod_revision for kv in view.range(start="a", limit=1)] == [2]
    assert view.count() == len(view) == 2 and view.count("b") == 1
    assert "b" in view and list(view) == [b"a", b"b"] and dict(view) == {b"a": b"1", b"b": b"1"}
    assert list(view.items(rev=2)) == list(view.items())
    assert repr(view) == "<fastkv.View revision=2>"
    with pytest.raises(KeyError):
        view["none"]
    with pytest.raises(fastkv.InvalidRequestError, match=r"db.at\(3\)"):
        view.items(rev=3)
    assert not hasattr(view, "put")


def test_views_that_cannot_be(db: fastkv.DB) -> None:
    for number in range(2, 8):
        db.put("a", str(number))
    db.compact(4)
    assert db.at(4)["a"] == b"4"
    for read in (
        lambda: db.at(3),
        lambda: list(db.items(rev=3)),
        lambda: db.get_kv("a", rev=3),
        lambda: db.count(rev=3),
    ):
        with pytest.raises(fastkv.CompactedError) as caught:
            read()
        assert caught.value.compact_revision == 4
    with pytest.raises(fastkv.FutureRevisionError):
        db.at(8)
    with pytest.raises(fastkv.InvalidRequestError):
        db.at(0)
    with pytest.raises(TypeError):
        db.at("4")  # type: ignore[arg-type]


def test_a_view_whose_revision_is_compacted_raises(db: fastkv.DB) -> None:
    db.put("a", "1")
    view = db.at(2)
    db.put("a", "2")
    db.compact(3)
    for read in (
        lambda: view["a"],
        lambda: list(view),
        lambda: view.get_kv("a"),
        lambda: len(view),
        lambda: view.get_many(["a"]),
    ):
        with pytest.raises(fastkv.CompactedError):
            read()


def test_the_past_survives_a_restart(open_db: Any, path: Path) -> None:
    db = open_db(path)
    for number in range(2, 8):
        db.put("a", str(number))
    db.compact(4)
    db.close()
    db = open_db(path)
    assert db.revision == 7 and db.compact_revision == 4
    assert [db.at(revision)["a"] for revision in range(4, 8)] == [b"4", b"5", b"6", b"7"]
    with pytest.raises(fastkv.CompactedError):
        db.at(3)


def test_history_of_a_key(db: fastkv.DB) -> None:
    assert db.history("a") == []
    db.put("a", "1")
    db.put("b", "other")
    db.put("a", "2")
    db.delete("a")
    db.put("a", "3")
    history = [
        Event(EventType.PUT, KeyValue(b"a", b"1", 2, 2, 1, 0)),
        Event(EventType.PUT, KeyValue(b"a", b"2", 2, 4, 2, 0)),
        Event(EventType.DELETE, KeyValue(b"a", b"", 0, 5, 0, 0)),
        Event(EventType.PUT, KeyValue(b"a", b"3", 6, 6, 1, 0)),
    ]
    assert db.history("a") == history
    db.compact(4)
    assert db.history("a") == history[1:]
    db.compact(6)
    assert db.history("a") == history[3:]


def test_compaction_forgets_what_was_superseded(db: fastkv.DB) -> None:
    for number in range(2, 3002):
        db.put(f"key {number % 10}", str(number))
    db.delete("key 0")
    assert db.stats().records == 3001
    db.compact(db.revision - 1)
    assert db.stats().records == 11
    assert db.compact_revision == 3001
    assert len(db) == 9 and len(db.at(3001)) == 10


def test_compactions_that_cannot_be(db: fastkv.DB) -> None:
    assert db.compact_revision == -1
    db.put("a", "1")
    db.compact(2)
    with pytest.raises(fastkv.CompactedError):
        db.compact(2)
    with pytest.raises(fastkv.FutureRevisionError):
        db.compact(3)
    with pytest.raises(fastkv.InvalidRequestError):
        db.compact(-1)
    with pytest.raises(TypeError):
        db.compact(1.5)  # type: ignore[arg-type]
