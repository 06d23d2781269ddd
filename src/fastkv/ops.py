"""
What a txn is made of: compares, operations, and the builder that puts them together.

    fastkv.key("a").version == 0                  a Compare; also != > < and, of numbers, >= <=
    fastkv.key(prefix="a/").mod_revision < 7      holds if it holds for every key of the range
    fastkv.put("a", "1"), fastkv.get("a"), fastkv.delete(prefix="a/")      Ops

    db.txn().when(*compares).then(*ops).otherwise(*ops).commit()  ->  TxnResult

Compares and Ops hold their encoded request and nothing else: immutable, and good for any number of txns of any store.

Invariants (etcd's rules):
* all compares are evaluated against the state before the txn, nested ones too; ops are carried out in order, and a get
  sees what earlier ops of the same txn wrote.
* a txn writes one revision or none. A key is put at most once in a txn, and not inside a range that the txn deletes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastkv import messages
from fastkv.keys import Bytes, as_bytes, as_count, as_key, as_revision, key_or_range
from fastkv.types import TxnResult

if TYPE_CHECKING:
    from fastkv.lease import Lease

_EQUAL, _GREATER, _LESS, _NOT_EQUAL = 0, 1, 2, 3
_VERSION, _CREATE, _MOD, _VALUE, _LEASE = 0, 1, 2, 3, 4


class _Encoded:
    """Equal when the encoded requests are."""

    __slots__ = ("encoded",)

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.encoded == other.encoded

    def __hash__(self) -> int:
        return hash(self.encoded)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.encoded!r})"


class Compare(_Encoded):
    """One condition of a txn. Made by comparing a field of `fastkv.key(...)`; it has no truth value of its own."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise TypeError("only the store can decide a compare: pass it to txn().when(...)")


class Op(_Encoded):
    """One operation of a txn: a put, get, delete or nested txn."""

    __slots__ = ()


class _Target:
    """One field of a key, or of every key of a range."""

    __slots__ = ("_end", "_key", "_target")
    __hash__ = None  # type: ignore[assignment]  # == makes a Compare

    def __init__(self, key: bytes, end: bytes, target: int) -> None:
        self._key = key
        self._end = end
        self._target = target

    def _compare(self, result: int, operand: int | bytes) -> Compare:
        return Compare(messages.compare(result, self._target, self._key, self._end, operand))


class NumberTarget(_Target):
    """A revision, version or lease. Of a key that is not there it is 0."""

    __slots__ = ()

    def __eq__(self, number: int | Lease) -> Compare:  # type: ignore[override]
        return self._compare(_EQUAL, _number(number))

    def __ne__(self, number: int | Lease) -> Compare:  # type: ignore[override]
        return self._compare(_NOT_EQUAL, _number(number))

    def __gt__(self, number: int) -> Compare:
        return self._compare(_GREATER, _number(number))

    def __lt__(self, number: int) -> Compare:
        return self._compare(_LESS, _number(number))

    def __ge__(self, number: int) -> Compare:
        return self._compare(_GREATER, _number(number) - 1)

    def __le__(self, number: int) -> Compare:
        return self._compare(_LESS, _number(number) + 1)


class ValueTarget(_Target):
    """The value. Every compare with the value of a key that is not there fails, `!=` too."""

    __slots__ = ()

    def __eq__(self, value: Bytes) -> Compare:  # type: ignore[override]
        return self._compare(_EQUAL, as_bytes(value))

    def __ne__(self, value: Bytes) -> Compare:  # type: ignore[override]
        return self._compare(_NOT_EQUAL, as_bytes(value))

    def __gt__(self, value: Bytes) -> Compare:
        return self._compare(_GREATER, as_bytes(value))

    def __lt__(self, value: Bytes) -> Compare:
        return self._compare(_LESS, as_bytes(value))


def _number(number: int | Lease) -> int:
    number = getattr(number, "id", number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"a revision, version or lease is compared with an int, not {type(number).__name__}")
    return number


class KeyTargets:
    """What `fastkv.key` gives: the fields that a compare can look at."""

    __slots__ = ("_end", "_key")

    def __init__(self, key: bytes, end: bytes) -> None:
        self._key = key
        self._end = end

    @property
    def version(self) -> NumberTarget:
        """Puts since the key was created; 0 = the key is not there."""
        return NumberTarget(self._key, self._end, _VERSION)

    @property
    def create_revision(self) -> NumberTarget:
        """Revision at which the key was created; 0 = the key is not there."""
        return NumberTarget(self._key, self._end, _CREATE)

    @property
    def mod_revision(self) -> NumberTarget:
        """Revision of the last put; 0 = the key is not there."""
        return NumberTarget(self._key, self._end, _MOD)

    @property
    def value(self) -> ValueTarget:
        return ValueTarget(self._key, self._end, _VALUE)

    @property
    def lease(self) -> NumberTarget:
        """Id of the lease that the key hangs on; 0 = none."""
        return NumberTarget(self._key, self._end, _LEASE)


def key(
    key: Bytes | None = None, *, prefix: Bytes | None = None, start: Bytes | None = None, stop: Bytes | None = None
) -> KeyTargets:
    """A key, or a range of keys, whose fields are to be compared: `fastkv.key("a").version == 0`.

    A compare of a range holds if it holds for each key of the range; with no key there, if it holds for 0 (and never
    for a value).
    """
    return KeyTargets(*key_or_range("key", key, prefix, start, stop))


def put(
    key: Bytes,
    value: Bytes = b"",
    *,
    lease: int | Lease = 0,
    prev: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> Op:
    """Put `key`; answered with a PutResult.

    prev: return what was there. ignore_value, ignore_lease: keep the key's present value or lease (KeyNotFoundError if
    the key is not there; give no value, or no lease, with it).
    """
    request = messages.put_request(
        as_key(key),
        as_bytes(value),
        _number(lease),
        prev_kv=prev,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )
    return Op(messages.request_op(messages.PUT_OP, request))


def get(
    key: Bytes | None = None,
    *,
    prefix: Bytes | None = None,
    start: Bytes | None = None,
    stop: Bytes | None = None,
    limit: int | None = None,
    reverse: bool = False,
    rev: int | None = None,
    keys_only: bool = False,
    count_only: bool = False,
) -> Op:
    """Read a key or a range; answered with a GetResult. limit: at most so many keys. rev: as of an older revision."""
    first, end = key_or_range("get", key, prefix, start, stop)
    request = messages.range_request(
        first,
        end,
        limit=as_count(limit, "limit"),
        revision=as_revision(rev),
        reverse=reverse,
        keys_only=keys_only,
        count_only=count_only,
    )
    return Op(messages.request_op(messages.RANGE_OP, request))


def delete(
    key: Bytes | None = None,
    *,
    prefix: Bytes | None = None,
    start: Bytes | None = None,
    stop: Bytes | None = None,
    prev: bool = False,
) -> Op:
    """Delete a key or a range; answered with a DeleteResult. prev: return what was there."""
    first, end = key_or_range("delete", key, prefix, start, stop)
    return Op(messages.request_op(messages.DELETE_OP, messages.delete_request(first, end, prev_kv=prev)))


class Txn:
    """A txn being built: `when` the compares hold `then` some ops, `otherwise` others. Each call adds to what was given
    before.

    Made by `db.txn()`, which can commit it, or by `fastkv.txn()`, which can be nested in another one.
    """

    __slots__ = ("_commit", "_compares", "_otherwise", "_then")

    def __init__(self, commit: Callable[[bytes], TxnResult] | None = None) -> None:
        self._commit = commit
        self._compares: list[Compare] = []
        self._then: list[Op] = []
        self._otherwise: list[Op] = []

    def when(self, *compares: Compare) -> Txn:
        """Conditions that must all hold."""
        for one in compares:
            if not isinstance(one, Compare):
                raise TypeError(f'when() takes compares such as fastkv.key("a").version == 0, not {type(one).__name__}')
        self._compares += compares
        return self

    def then(self, *ops: Op | Txn) -> Txn:
        """What to do, in this order, if every condition holds (or there is none)."""
        self._then += map(_as_op, ops)
        return self

    def otherwise(self, *ops: Op | Txn) -> Txn:
        """What to do, in this order, if a condition does not hold."""
        self._otherwise += map(_as_op, ops)
        return self

    def encode(self) -> bytes:
        """The TxnRequest message."""
        return messages.txn_request(
            [one.encoded for one in self._compares],
            [op.encoded for op in self._then],
            [op.encoded for op in self._otherwise],
        )

    def commit(self) -> TxnResult:
        """Carry it out, all at once. May be called again: a txn is not used up.

        Raises InvalidRequestError for what can never work (a key put twice), LeaseNotFoundError, KeyNotFoundError,
        CompactedError, FutureRevisionError for an operation that cannot be carried out; then nothing at all has been
        written.
        """
        if self._commit is None:
            raise TypeError("a txn made by fastkv.txn() is for nesting; commit one made by db.txn()")
        return self._commit(self.encode())

    def __repr__(self) -> str:
        return f"<fastkv.Txn compares={len(self._compares)} then={len(self._then)} otherwise={len(self._otherwise)}>"


def txn() -> Txn:
    """A txn to be nested in another: pass it to `then` or `otherwise`. Answered with a TxnResult."""
    return Txn()


def _as_op(op: Op | Txn) -> Op:
    if isinstance(op, Txn):
        return Op(messages.request_op(messages.TXN_OP, op.encode()))
    if not isinstance(op, Op):
        raise TypeError(f'an operation is made by fastkv.put("a", "1"), get, delete or txn, not {type(op).__name__}')
    return op
