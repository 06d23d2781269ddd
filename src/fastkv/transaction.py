"""
Transactions that read, decide and write: `db.transactional`, `db.transact`.

    @db.transactional
    def move(t, amount):
        t["a"] = str(int(t["a"]) - amount)
        t["b"] = str(int(t["b"]) + amount)

    move(5)

Optimistic: the function runs against one revision and its writes are kept aside; the commit is one txn whose compares
say "what I have read is still so". If they do not hold, the function runs again on newer data.

Invariants:
* serializable: what a committed function read was true at the revision before its writes.
* the function sees one revision and its own writes, never a mixture.
* one that raises, or gives up, has written nothing. It may run several times: it must have no effect but through `t`.
* from its second attempt on a function has the lock of its DB: it then loses only to plain writes and to first
  attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from fastkv import messages
from fastkv.engine import TXN
from fastkv.errors import CompactedError, ConflictError
from fastkv.keys import UNBOUNDED, Bytes, as_bytes, as_count, as_key, key_or_range, key_range, raise_for
from fastkv.types import KeyValue

if TYPE_CHECKING:
    from fastkv.lease import Lease
    from fastkv.reads import View
    from fastkv.store import DB

ATTEMPTS = 32
_EQUAL, _LESS = 0, 2
_MOD = 2

P = ParamSpec("P")
T = TypeVar("T")
Default = TypeVar("Default")


class Transaction(MutableMapping[bytes, bytes]):
    """What a transactional function reads from and writes to. Reads are as of `revision`, under the writes made so far.

    Thread safety: belongs to the thread that runs the function.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._reads: dict[bytes, int] = {}  # key -> the mod_revision seen, 0 = not there
        self._ranges: list[tuple[bytes, bytes]] = []
        self._writes: dict[bytes, tuple[bytes, int] | None] = {}  # key -> (value, lease), None = delete

    @property
    def revision(self) -> int:
        """The revision that the reads are of."""
        return self._view.revision

    # -- reads ------------------------------------------------------------------------------------------------

    def get_kv(self, key: Bytes) -> KeyValue | None:
        """The stored key-value, whatever this transaction has written; None if the key is not there."""
        key = as_key(key)
        kv = self._view.get_kv(key)
        self._reads[key] = kv.mod_revision if kv else 0
        return kv

    @overload
    def get(self, key: Bytes, /) -> bytes | None: ...
    @overload
    def get(self, key: Bytes, default: bytes, /) -> bytes: ...
    @overload
    def get(self, key: Bytes, default: Default, /) -> bytes | Default: ...
    def get(self, key: Bytes, default: Any = None, /) -> Any:
        """The value of `key`, or `default` if it is not there."""
        key = as_key(key)
        if key in self._writes:
            written = self._writes[key]
            return default if written is None else written[0]
        kv = self.get_kv(key)
        return kv.value if kv else default

    def items(  # type: ignore[override]
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of a range, ascending. The range counts as read: a key that appears in it meanwhile is a
        conflict."""
        first, end = key_range(prefix, start, stop)
        at_most = as_count(limit, "limit")
        merged = {}
        alive = 0
        for kv in self._view.range(prefix=prefix, start=start, stop=stop):
            self._reads[kv.key] = kv.mod_revision
            merged[kv.key] = kv.value
            alive += self._writes.get(kv.key, b"") is not None
            if alive == at_most != 0:
                end = kv.key + b"\0"
                break
        self._ranges.append((first, end))
        for key, written in self._writes.items():
            if first <= key and (end == UNBOUNDED or key < end):
                if written is None:
                    merged.pop(key, None)
                else:
                    merged[key] = written[0]
        return islice(iter(sorted(merged.items())), at_most or None)

    def keys(  # type: ignore[override]
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[bytes]:
        """Keys of a range, as `items`."""
        return (key for key, _ in self.items(prefix=prefix, start=start, stop=stop, limit=limit))

    def values(  # type: ignore[override]
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[bytes]:
        """Values of a range, as `items`."""
        return (value for _, value in self.items(prefix=prefix, start=start, stop=stop, limit=limit))

    # -- writes -----------------------------------------------------------------------------------------------

    def put(self, key: Bytes, value: Bytes, *, lease: int | Lease | None = None) -> None:
        """Put `key` if the transaction commits."""
        attached = 0 if lease is None else lease if isinstance(lease, int) else lease.id
        self._writes[as_key(key)] = (as_bytes(value), attached)

    def delete(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
    ) -> int:
        """Delete a key or a range if the transaction commits; returns how many keys (which counts as reading them)."""
        single, end = key_or_range("delete", key, prefix, start, stop)
        doomed = list(self.keys(prefix=prefix, start=start, stop=stop)) if end else [single] if single in self else []
        for one in doomed:
            self._writes[one] = None
        return len(doomed)

    # -- mapping ----------------------------------------------------------------------------------------------

    def __getitem__(self, key: Bytes) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Bytes, value: Bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: Bytes) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -- commit -----------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """The TxnRequest: the writes, if all that was read is still so."""
        unchanged = [messages.compare(_EQUAL, _MOD, key, b"", mod) for key, mod in self._reads.items()]
        # Something new or newer in a range has a mod_revision above ours; something deleted from it is among the keys
        # read.
        unchanged += [messages.compare(_LESS, _MOD, first, end, self.revision + 1) for first, end in self._ranges]
        writes = []
        for key, written in self._writes.items():
            if written is None:
                writes.append(messages.request_op(messages.DELETE_OP, messages.delete_request(key)))
            else:
                writes.append(messages.request_op(messages.PUT_OP, messages.put_request(key, *written)))
        return messages.txn_request(unchanged, writes)

    @property
    def writes(self) -> int:
        """How many keys the transaction would write or delete."""
        return len(self._writes)

    def __repr__(self) -> str:
        return f"<fastkv.Transaction revision={self.revision} reads={len(self._reads)} writes={len(self._writes)}>"


def transact(
    store: DB, attempts: int, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run `function(transaction, *args, **kwargs)` and commit what it wrote; see `DB.transact`."""
    for attempt in range(attempts):
        with store._transact_lock if attempt else nullcontext():
            revision = store.revision
            try:
                transaction = Transaction(store.at(revision))
                result = function(transaction, *args, **kwargs)
            except CompactedError:
                if store._engine.compact_revision <= revision:
                    raise  # not because of our revision: it is the function's own affair
                continue
            if not transaction.writes:
                return result  # what it read was one revision: nothing can be in conflict
            ((code, answer),) = store._engine.commit([(TXN, transaction.encode())])
            raise_for(code)
            if messages.txn_result(answer).succeeded:
                return result
    raise ConflictError(f"other writers changed what was read, {attempts} times in a row; nothing was written")
