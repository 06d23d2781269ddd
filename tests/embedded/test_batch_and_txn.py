"""Several operations at once: batches, txns, and transactional functions."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import fastkv
from fastkv import DeleteResult, GetResult, KeyValue, PutResult, TxnResult

# -- batch ----------------------------------------------------------------------------------------------------


def test_a_batch_is_one_revision(db: fastkv.DB) -> None:
    db.put_many({"old": "1", "older": "2"})
    with db.batch() as batch:
        batch.put("a", "1")
        batch["b"] = "2"
        batch.delete("old")
        del batch["older"]
        assert len(batch) == 4
        assert list(db) == [b"old", b"older"]
    assert batch.revision == db.revision == 3
    assert [kv.mod_revision for kv in db.range()] == [3, 3]
    assert list(db) == [b"a", b"b"]


def test_a_batch_whose_body_raises_writes_nothing(db: fastkv.DB) -> None:
    with pytest.raises(ZeroDivisionError), db.batch() as batch:
        batch.put("a", "1")
        batch.delete(prefix="")
        raise ZeroDivisionError
    assert batch.revision is None
    assert db.revision == 1


def test_an_empty_batch_writes_nothing(db: fastkv.DB) -> None:
    with db.batch() as batch:
        pass
    assert batch.revision == db.revision == 1


def test_what_a_batch_was_told_last_counts(db: fastkv.DB) -> None:
    db.put_many({"p/1": "old", "p/2": "old", "q": "old"})
    with db.batch() as batch:
        batch.put("a", "1")
        batch.put("a", "2")
        batch.put("b", "1")
        batch.delete("b")
        batch.delete("q")
        batch.put("q", "new")
        batch.put("p/0", "overtaken by the delete")
        batch.delete(prefix="p/")
        batch.put("p/2", "new")
        batch.put("p/3", "new")
    assert batch.revision == 3
    assert dict(db.items()) == {b"a": b"2", b"q": b"new", b"p/2": b"new", b"p/3": b"new"}


@pytest.mark.parametrize("kept", [["\0"], ["a"], ["m"], ["a", "a\0", "z"], ["\0", "a", "b", "m", "z"]], ids=repr)
def test_delete_everything_but_what_is_put(db: fastkv.DB, kept: list[str]) -> None:
    db.put_many({"\0": "0", "a": "0", "b": "0", "m": "0", "z": "0"})
    for bounds in ({"prefix": ""}, {"start": "\0", "stop": "zz"}):
        with db.batch() as batch:
            batch.delete(**bounds)  # type: ignore[arg-type]
            for key in kept:
                batch.put(key, "1")
        assert dict(db.items()) == {key.encode(): b"1" for key in kept}


def test_a_batch_can_be_committed_by_hand_and_used_again(db: fastkv.DB) -> None:
    batch = db.batch()
    batch.put("a", "1")
    assert batch.commit() == 2
    batch.put("b", "1")
    batch.discard()
    assert batch.commit() == 2
    batch.put("c", "1")
    assert batch.commit() == 3
    assert list(db) == [b"a", b"c"]


def test_a_batch_puts_with_leases(db: fastkv.DB) -> None:
    lease = db.lease(60)
    with db.batch() as batch:
        batch.put("a", "1", lease=lease)
        batch.put("b", "1", lease=lease.id)
        batch.put("c", "1", lease=lease)
        batch.put("c", "2")
    assert lease.keys == (b"a", b"b")
    with pytest.raises(fastkv.LeaseNotFoundError), db.batch() as batch:
        batch.put("d", "1")
        batch.put("e", "1", lease=12345)
    assert db.revision == 2


# -- txn ------------------------------------------------------------------------------------------------------


def test_txn_chooses_its_branch(db: fastkv.DB) -> None:
    create = db.txn().when(fastkv.key("a").version == 0).then(fastkv.put("a", "1")).otherwise(fastkv.get("a"))
    assert create.commit() == TxnResult(True, (PutResult(2, None),), 2)
    found = KeyValue(b"a", b"1", 2, 2, 1, 0)
    assert create.commit() == TxnResult(False, (GetResult(2, (found,), 1, False),), 2)


def test_a_txn_result_is_true_when_it_succeeded(db: fastkv.DB) -> None:
    assert db.txn().commit()
    assert not db.txn().when(fastkv.key("a").version > 0).commit()


def test_all_compares(db: fastkv.DB) -> None:
    lease = db.lease(60, id=7)
    db.put("a", "m")
    db.put("a", "m", lease=lease)
    a, none = fastkv.key("a"), fastkv.key("none")
    true = [
        a.version == 2, a.version != 1, a.version > 1, a.version < 3, a.version >= 2, a.version <= 2,
        a.create_revision == 2, a.mod_revision == 3, a.mod_revision > 2, a.lease == 7, a.lease == lease,
        a.value == "m", a.value == b"m", a.value != "x", a.value > "l", a.value < "n",
        none.version == 0, none.create_revision == 0, none.mod_revision <= 0, none.lease == 0,
        fastkv.key(prefix="a").version == 2, fastkv.key(start="a", stop="b").value == "m",
        fastkv.key(prefix="x").version == 0,
    ]  # fmt: skip
    false = [
        a.version == 1, a.version > 2, a.version < 2, a.version >= 3, a.version <= 1, a.value == "x", a.value > "m",
        none.value == "", none.value != "x", none.version > 0, fastkv.key(prefix="x").value == "", a.lease == 0,
    ]  # fmt: skip
    assert [bool(db.txn().when(compare).commit()) for compare in true] == [True] * len(true)
    assert [bool(db.txn().when(compare).commit()) for compare in false] == [False] * len(false)
    assert db.txn().when(*true).commit()
    assert not db.txn().when(*true, false[0]).commit()


def test_txn_operations_and_their_answers(db: fastkv.DB) -> None:
    db.put_many({"a": "1", "b": "2", "c": "3"})
    a, b, c = (KeyValue(key, value, 2, 2, 1, 0) for key, value in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3")))
    result = (
        db.txn()
        .then(
            fastkv.get(prefix="", limit=2),
            fastkv.get(prefix="", reverse=True, limit=1),
            fastkv.get(prefix="", keys_only=True, limit=1),
            fastkv.get(start="b", count_only=True),
            fastkv.delete(start="a", stop="c", prev=True),
            fastkv.put("c", "4", prev=True),
            fastkv.get("c"),
        )
        .commit()
    )
    assert result.revision == db.revision == 3
    two, last, keys, count, deleted, put, got = result.responses
    assert two == GetResult(2, (a, b), 3, True)
    assert last == GetResult(2, (c,), 3, True)
    assert isinstance(keys, GetResult) and keys.kvs[0].value == b""
    assert count == GetResult(2, (), 2, False)
    assert deleted == DeleteResult(3, 2, (a, b))
    assert put == PutResult(3, c)
    assert got == GetResult(3, (KeyValue(b"c", b"4", 2, 3, 2, 0),), 1, False)


def test_put_in_a_txn_can_keep_value_or_lease(db: fastkv.DB) -> None:
    lease = db.lease(60)
    db.put("a", "1", lease=lease)
    db.txn().then(fastkv.put("a", "2", ignore_lease=True)).commit()
    assert lease.keys == (b"a",)
    db.txn().then(fastkv.put("a", ignore_value=True)).commit()
    assert lease.keys == () and db.get("a") == b"2"
    with pytest.raises(fastkv.KeyNotFoundError) as caught:
        db.txn().then(fastkv.put("none", ignore_value=True)).commit()
    assert isinstance(caught.value, KeyError) and str(caught.value) == "etcdserver: key not found"


def test_txns_nest(db: fastkv.DB) -> None:
    inner = fastkv.txn().when(fastkv.key("a").version == 0).then(fastkv.put("b", "1")).otherwise(fastkv.put("b", "2"))
    result = db.txn().then(fastkv.put("a", "1"), inner).commit()
    assert db.get("b") == b"1"  # compares see the state before the txn
    nested = result.responses[1]
    assert isinstance(nested, TxnResult) and nested.succeeded and nested.responses == (PutResult(2, None),)
    with pytest.raises(TypeError):
        inner.commit()


def test_a_txn_that_fails_writes_nothing(db: fastkv.DB) -> None:
    for ops, error in (
        ((fastkv.put("a", "1"), fastkv.put("a", "2")), fastkv.InvalidRequestError),
        ((fastkv.put("a", "1"), fastkv.put("b", "2", lease=99)), fastkv.LeaseNotFoundError),
        ((fastkv.put("a", "1"), fastkv.get("a", rev=99)), fastkv.FutureRevisionError),
    ):
        with pytest.raises(error):
            db.txn().then(*ops).commit()
    assert db.revision == 1 and len(db) == 0


def test_parts_of_txns_are_values(db: fastkv.DB) -> None:
    assert fastkv.put("a", "1") == fastkv.put(b"a", b"1") != fastkv.put("a", "2")
    assert len({fastkv.get("a"), fastkv.get("a"), fastkv.delete("a")}) == 2
    assert (fastkv.key("a").version == 0) == (fastkv.key("a").version == 0)
    with pytest.raises(TypeError, match="when"):
        bool(fastkv.key("a").version == 0)
    with pytest.raises(TypeError, match=r"fastkv\.key"):
        db.txn().when(True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"fastkv\.put"):
        db.txn().then("put")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int"):
        fastkv.key("a").version == "1"  # type: ignore[operator]  # noqa: B015


def test_records_match_patterns(db: fastkv.DB) -> None:
    db.put("a", "1")
    match db.txn().then(fastkv.get("a")).commit():
        case TxnResult(True, (GetResult(kvs=(KeyValue(key=b"a", value=value),)),), revision):
            assert (value, revision) == (b"1", 2)
        case other:
            pytest.fail(repr(other))
    with pytest.raises(AttributeError):
        db.get_kv("a").value = b"2"  # type: ignore[union-attr,misc]
    assert not hasattr(db.get_kv("a"), "__dict__")


# -- transactional --------------------------------------------------------------------------------------------


def test_a_transactional_function_reads_and_writes(db: fastkv.DB) -> None:
    db.put_many({"a": "10", "b": "0"})

    @db.transactional
    def move(t: fastkv.Transaction, amount: int, *, to: str = "b") -> int:
        """Docs."""
        t["a"] = str(int(t["a"]) - amount)
        t[to] = str(int(t[to]) + amount)
        return int(t["a"])  # its own writes are seen

    assert move(3) == 7 and move(2, to="b") == 5
    assert db["a"] == b"5" and db["b"] == b"5"
    assert db.revision == 4
    assert move.__doc__ == "Docs." and move.__name__ == "move"
    assert db.transact(lambda t: t["a"]) == b"5"
    assert db.revision == 4  # only read


def test_a_transactional_function_that_raises_writes_nothing(db: fastkv.DB) -> None:
    @db.transactional
    def fail(t: fastkv.Transaction) -> None:
        t["a"] = "1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert db.revision == 1


def test_a_transaction_is_a_mapping_of_its_own_writes_over_the_store(db: fastkv.DB) -> None:
    db.put_many({"a": "1", "b": "2", "c": "3", "d": "4"})
    lease = db.lease(60)

    def edit(t: fastkv.Transaction) -> None:
        assert t.delete("b") == 1 and t.delete("b") == 0
        del t["d"]
        with pytest.raises(KeyError):
            del t["d"]
        with pytest.raises(KeyError):
            t["b"]
        t.put("aa", "new", lease=lease)
        assert t.get("b") is None and t.get("b", b"-") == b"-" and "b" not in t
        assert list(t.items()) == [(b"a", b"1"), (b"aa", b"new"), (b"c", b"3")]
        assert list(t.items(limit=1)) == [(b"a", b"1")]
        assert list(t.keys(start="aa", limit=2)) == [b"aa", b"c"]
        assert list(t.values(prefix="a")) == [b"1", b"new"]
        assert len(t) == 3 and list(t) == [b"a", b"aa", b"c"]
        assert t.pop("a") == b"1" and t.setdefault("e", b"5") == b"5"
        assert t.delete(prefix="") == 3
        t["z"] = "only"

    db.transact(edit)
    assert dict(db.items()) == {b"z": b"only"}


@pytest.mark.parametrize(
    ("read", "interfere"),
    [
        (lambda t: t.get("a"), lambda db: db.put("a", "2")),
        (lambda t: t.get("a"), lambda db: db.delete("a")),
        (lambda t: t.get("none"), lambda db: db.put("none", "1")),
        (lambda t: "none" in t, lambda db: db.put("none", "1")),
        (lambda t: list(t.items(prefix="a")), lambda db: db.put("a1", "1")),
        (lambda t: list(t.keys(prefix="a")), lambda db: db.put("a", "2")),
        (lambda t: list(t.keys(prefix="a")), lambda db: db.delete("a")),
        (lambda t: len(t), lambda db: db.put("zz", "1")),
        (lambda t: t.get_kv("a"), lambda db: db.put("a", "1")),
    ],
)
def test_what_was_read_and_has_changed_is_a_conflict(db: fastkv.DB, read: Any, interfere: Any) -> None:
    db.put("a", "1")
    runs: list[int] = []

    def function(t: fastkv.Transaction) -> None:
        read(t)
        runs.append(t.revision)
        if len(runs) == 1:
            interfere(db)
        t["out"] = "1"

    db.transact(function)
    assert len(runs) == 2 and runs[0] < runs[1]


def test_what_was_not_read_may_change(db: fastkv.DB) -> None:
    db.put_many({"a": "1", "b": "1", "c": "1"})
    runs = []

    def function(t: fastkv.Transaction) -> None:
        runs.append(t["a"])
        list(t.items(start="a", limit=1))
        db.put("b", "2")
        t["out"] = "1"

    db.transact(function)
    assert len(runs) == 1


def test_losing_again_and_again_is_a_conflict_error(db: fastkv.DB) -> None:
    runs = []

    @db.transactional(attempts=3)
    def unlucky(t: fastkv.Transaction) -> None:
        runs.append(t.get("a"))
        db.put("a", str(len(runs)))
        t["out"] = "1"

    with pytest.raises(fastkv.ConflictError, match="3 times") as caught:
        unlucky()
    assert caught.value.retryable and caught.value.code == fastkv.GrpcCode.ABORTED
    assert len(runs) == 3 and "out" not in db


def test_a_compaction_under_way_is_not_the_functions_problem(db: fastkv.DB) -> None:
    db.put("a", "1")
    runs = []

    def function(t: fastkv.Transaction) -> None:
        runs.append(1)
        if len(runs) == 1:
            db.put("x", "1")
            db.compact(db.revision)
        t["out"] = t["a"]

    db.transact(function)
    assert len(runs) == 2 and db["out"] == b"1"


def test_transactional_counters_from_eight_threads(db: fastkv.DB) -> None:
    @db.transactional
    def increment(t: fastkv.Transaction) -> None:
        t["n"] = str(int(t.get("n", b"0")) + 1)

    threads = [threading.Thread(target=lambda: [increment() for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db["n"] == b"200"
    kv = db.get_kv("n")
    assert kv is not None and kv.version == 200
