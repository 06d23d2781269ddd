"""Keys in, keys out: get, put, delete, ranges, and the store as a mutable mapping."""

from __future__ import annotations

import array
from collections.abc import Mapping, MutableMapping
from itertools import islice
from typing import Any

import pytest

import fastkv
from fastkv import KeyValue, PutResult, reads


def fill(db: fastkv.DB, *keys: str) -> None:
    db.put_many([(key, f"value of {key}") for key in keys])


# -- single keys ----------------------------------------------------------------------------------------------


def test_put_returns_the_revision_and_get_the_value(db: fastkv.DB) -> None:
    assert db.revision == 1
    assert db.put("a", "1") == 2
    assert db.put("a", "2") == 3
    assert db.get("a") == b"2"
    assert db.revision == 3


def test_get_of_an_absent_key_is_the_default(db: fastkv.DB) -> None:
    assert db.get("a") is None
    assert db.get("a", b"x") == b"x"
    assert db.get("a", 5) == 5


def test_an_empty_value_is_a_value(db: fastkv.DB) -> None:
    db.put("a", b"")
    assert db.get("a", b"default") == b""
    assert "a" in db


@pytest.mark.parametrize(
    "same",
    ["kéy", "kéy".encode(), bytearray("kéy".encode()), memoryview("kéy".encode()), array.array("B", "kéy".encode())],
    ids=lambda key: type(key).__name__,
)
def test_keys_and_values_are_str_or_any_buffer(db: fastkv.DB, same: Any) -> None:
    db.put(same, same)
    assert db.get(same) == "kéy".encode()
    assert db[same] == "kéy".encode()
    assert list(db.items(start=same)) == [("kéy".encode(), "kéy".encode())]
    assert same in db
    db.put_many(
        {same: same} if getattr(type(same), "__hash__", None) and not isinstance(same, array.array) else [(same, same)]
    )
    with db.batch() as batch:
        batch.put(same, same)
    assert db.get_kv(same) == KeyValue("kéy".encode(), "kéy".encode(), 2, 4, 3, 0)
    assert db.delete(same) == 1


def test_a_buffer_is_copied(db: fastkv.DB) -> None:
    value = bytearray(b"before")
    db.put("a", value)
    with db.batch() as batch:
        batch.put("b", value)
        value[:] = b"after!"
    assert db.get("a") == db.get("b") == b"before"


@pytest.mark.parametrize("wrong", [5, None, 1.5, ["a"], object()], ids=lambda wrong: type(wrong).__name__)
def test_what_is_neither_str_nor_buffer_is_a_type_error(db: fastkv.DB, wrong: Any) -> None:
    for call in (
        lambda: db.put(wrong, "1"),
        lambda: db.put("a", wrong),
        lambda: db.get(wrong),
        lambda: db.get_kv(wrong),
        lambda: db.get_many([wrong]),
        lambda: db[wrong],
        lambda: db.__setitem__("a", wrong),
        lambda: db.put_many([("a", wrong)]),
        lambda: db.batch().put(wrong, "1"),
        lambda: db.batch().put("a", wrong),
        lambda: fastkv.put("a", wrong),
        lambda: fastkv.key("a").value == wrong,
    ):
        with pytest.raises(TypeError):
            call()
    assert db.revision == 1


def test_an_empty_key_is_refused(db: fastkv.DB) -> None:
    for call in (
        lambda: db.put("", "1"),
        lambda: db.get(b""),
        lambda: db.get_kv(""),
        lambda: db.delete(""),
        lambda: db.put_many({"": "1"}),
        lambda: db.batch().put("", "1"),
        lambda: fastkv.key(""),
        lambda: db.history(""),
        lambda: db.watch(""),
    ):
        with pytest.raises(fastkv.InvalidRequestError, match="key is not provided") as caught:
            call()
        assert caught.value.number == fastkv.Code.EMPTY_KEY
        assert caught.value.code == fastkv.GrpcCode.INVALID_ARGUMENT
        assert isinstance(caught.value, ValueError)


def test_str_that_is_not_unicode_text_is_refused(db: fastkv.DB) -> None:
    with pytest.raises(UnicodeEncodeError):
        db.put("\udc80", "1")
    assert db.revision == 1


def test_get_kv_says_everything(db: fastkv.DB) -> None:
    assert db.get_kv("a") is None
    db.put("a", "1")
    db.put("b", "1")
    db.put("a", "2")
    assert db.get_kv("a") == KeyValue(b"a", b"2", create_revision=2, mod_revision=4, version=2, lease=0)
    assert db.get_kv("a", rev=3) == KeyValue(b"a", b"1", create_revision=2, mod_revision=2, version=1, lease=0)


def test_get_many_keeps_the_order_and_is_of_one_revision(db: fastkv.DB) -> None:
    fill(db, "a", "b")
    db.put("a", "new")
    assert db.get_many(["b", "none", "a"]) == [b"value of b", None, b"new"]
    assert db.get_many(["b", "none", "a"], rev=2) == [b"value of b", None, b"value of a"]
    assert db.get_many([]) == []


def test_put_with_prev_says_what_was_there(db: fastkv.DB) -> None:
    assert db.put("a", "1", prev=True) == PutResult(2, None)
    assert db.put("a", "2", prev=True) == PutResult(3, KeyValue(b"a", b"1", 2, 2, 1, 0))


def test_put_many_is_one_revision(db: fastkv.DB) -> None:
    assert db.put_many({"a": "1", b"b": b"2"}) == 2
    assert db.put_many([("a", "3"), ("c", "4"), ("a", "5")]) == 3  # of a key given twice the last value counts
    assert list(db.items()) == [(b"a", b"5"), (b"b", b"2"), (b"c", b"4")]
    assert db.put_many([]) == 3


def test_delete_says_how_many(db: fastkv.DB) -> None:
    fill(db, "a", "b1", "b2", "c", "d")
    assert db.delete("a") == 1
    assert db.delete("a") == 0
    assert db.delete(prefix="b") == 2
    assert db.delete(start="c", stop="d") == 1
    assert db.delete(start="x", stop="a") == 0
    assert list(db) == [b"d"]
    assert db.revision == 5  # deleting nothing makes no revision
    assert db.delete(prefix="") == 1
    assert len(db) == 0


def test_delete_of_nothing_in_particular_is_a_type_error(db: fastkv.DB) -> None:
    fill(db, "a")
    for call in (
        lambda: db.delete(),
        lambda: db.delete("a", prefix="b"),
        lambda: db.delete(prefix="a", start="a"),
        lambda: db.batch().delete(),
        lambda: fastkv.delete(),
        lambda: db.watch(),
        lambda: fastkv.key(),
    ):
        with pytest.raises(TypeError, match="give"):
            call()
    assert len(db) == 1


def test_a_large_value_comes_back_whole(open_db: Any, path: Any) -> None:
    value = bytes(range(256)) * (1 << 12)  # 1 MiB: larger than a log segment
    db = open_db(path, sync=False, segment_bytes_max=64 << 10)
    db.put("a", value)
    assert db.get("a") == value
    db.close()
    assert open_db(path).get("a") == value


# -- ranges ---------------------------------------------------------------------------------------------------

KEYS = ["\0", "a", "a/1", "a/2", "a0", "b", "b\xff", "c"]


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"prefix": ""},
        {"prefix": "a/"},
        {"prefix": b"\xff"},
        {"prefix": "\0"},
        {"start": "a/"},
        {"stop": "b"},
        {"start": "a", "stop": "b"},
        {"start": "b", "stop": "a"},
        {"start": "a", "stop": "a"},
        {"start": "", "stop": "\0"},
        {"start": "", "stop": ""},
        {"stop": b"\xff\xff"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_a_range_is_what_sorting_and_filtering_gives(
    db: fastkv.DB, bounds: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "CHUNK", chunk)
    fill(db, *KEYS)
    model = {key.encode(): f"value of {key}".encode() for key in KEYS}

    def inside(key: bytes) -> bool:
        raw = {name: bound if isinstance(bound, bytes) else bound.encode() for name, bound in bounds.items()}
        if "prefix" in raw:
            return key.startswith(raw["prefix"])
        return raw.get("start", b"") <= key and ("stop" not in raw or key < raw["stop"])

    expected = [(key, model[key]) for key in sorted(model) if inside(key)]
    assert list(db.items(**bounds)) == expected
    assert list(db.items(**bounds, reverse=True)) == expected[::-1]
    assert list(db.keys(**bounds)) == [key for key, _ in expected]
    assert list(db.values(**bounds, reverse=True)) == [value for _, value in expected[::-1]]
    assert [(kv.key, kv.value) for kv in db.range(**bounds)] == expected
    assert db.count(**bounds) == len(expected)
    for limit in (1, 2, 3, 7, 8, 9):
        assert list(db.items(**bounds, limit=limit)) == expected[:limit]
        assert list(db.items(**bounds, limit=limit, reverse=True)) == expected[::-1][:limit]
    if "prefix" in bounds or bounds.get("stop"):
        assert db.delete(**bounds) == len(expected)
        assert set(db) == set(model) - {key for key, _ in expected}


def test_limit_none_and_0_mean_everything(db: fastkv.DB) -> None:
    fill(db, "a", "b")
    assert len(list(db.items(limit=None))) == len(list(db.items(limit=0))) == 2


def test_a_range_is_lazy_and_of_one_revision(db: fastkv.DB) -> None:
    db.put_many([(f"{number:05}", str(number)) for number in range(2500)])
    items = db.items()
    first = list(islice(items, 10))
    db.delete(prefix="")  # in front of, and behind the reader
    db.put("00011x", "new")
    rest = list(items)
    assert first + rest == [(b"%05d" % number, b"%d" % number) for number in range(2500)]
    assert len(db) == 1


def test_a_range_that_is_compacted_away_raises_instead_of_missing_keys(db: fastkv.DB) -> None:
    db.put_many([(f"{number:05}", "1") for number in range(2500)])
    items = db.items()
    next(items)
    db.delete(prefix="")
    db.compact(db.revision)
    with pytest.raises(fastkv.CompactedError):
        list(items)


def test_a_range_not_begun_survives_a_compaction(db: fastkv.DB) -> None:
    fill(db, "a", "b")
    items = db.items()
    db.delete("a")
    db.compact(db.revision)
    assert list(items) == [(b"b", b"value of b")]


def test_ranges_at_an_older_revision(db: fastkv.DB) -> None:
    fill(db, "a", "b")
    db.delete("a")
    db.put("c", "1")
    assert list(db.keys(rev=2)) == [b"a", b"b"]
    assert list(db.keys(rev=3)) == [b"b"]
    assert db.count(rev=4) == 2
    assert db.count("a", rev=2) == 1
    assert db.count("a") == 0


def test_impossible_arguments_of_ranges(db: fastkv.DB) -> None:
    with pytest.raises(fastkv.FutureRevisionError):
        list(db.items(rev=2))
    with pytest.raises(fastkv.InvalidRequestError):
        db.items(rev=-1)
    with pytest.raises(fastkv.InvalidRequestError):
        db.items(limit=-1)
    with pytest.raises(TypeError):
        db.items(limit=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        db.items(rev="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        db.items(prefix="a", start="a")
    with pytest.raises(TypeError):
        db.items("a")  # type: ignore[call-arg]


# -- mapping --------------------------------------------------------------------------------------------------


def test_the_store_is_a_mutable_mapping(db: fastkv.DB) -> None:
    assert isinstance(db, MutableMapping)
    assert isinstance(db.at(1), Mapping) and not isinstance(db.at(1), MutableMapping)
    db["b"] = "2"
    db["a"] = b"1"
    assert db["a"] == b"1"
    assert "a" in db and "x" not in db
    assert len(db) == 2
    assert list(db) == [b"a", b"b"]
    assert list(reversed(db)) == [b"b", b"a"]
    assert dict(db) == dict(db.items()) == {b"a": b"1", b"b": b"2"}
    del db["a"]
    with pytest.raises(KeyError, match="a"):
        del db["a"]
    with pytest.raises(KeyError, match="a"):
        db["a"]
    assert db == db and db != {b"b": b"2"} and hash(db) == hash(db)


def test_setdefault_pop_popitem_update_clear(db: fastkv.DB) -> None:
    assert db.setdefault("a", "1") == b"1"
    assert db.setdefault("a", "2") == b"1"
    assert db.revision == 2
    assert db.pop("a") == b"1"
    assert db.pop("a", b"gone") == b"gone"
    with pytest.raises(KeyError):
        db.pop("a")
    assert db.revision == 3
    db.update({"a": "1", "b": "2"}, c="3")
    db.update([("d", "4")])
    db.update(e="5")
    assert db.revision == 6
    assert db.popitem() == (b"a", b"1")
    db.clear()
    assert db.revision == 8
    with pytest.raises(KeyError):
        db.popitem()
