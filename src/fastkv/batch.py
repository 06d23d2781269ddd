"""
Several writes that become one revision: `db.batch()`.

Owns the gathering of puts and deletes until they are committed as one txn. Unlike in a plain txn a key may be written
again and again: what was written last counts.

    put a=1, put a=2               ->  put a=2
    put a=1, delete prefix=""      ->  delete everything
    delete prefix="", put b=2      ->  delete [first, b), delete (b, last], put b=2

In the third case b is not created anew: its version goes on counting. Deletes come first in the revision, then the
puts, in the order in which their keys were first put.

Thread safety: a batch belongs to one thread.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from fastkv import messages
from fastkv.engine import TXN
from fastkv.keys import UNBOUNDED, Bytes, as_bytes, as_key, key_or_range, raise_for

if TYPE_CHECKING:
    from fastkv.lease import Lease
    from fastkv.store import DB


class Batch:
    """Writes to be committed together, at one revision, or not at all.

    As a context manager it commits at the end of the block; if the block raises, nothing is written. `revision` is that
    of the last commit, None before. A batch is empty after a commit and can be used again.
    """

    __slots__ = ("_deletes", "_leases", "_puts", "_store", "revision")

    def __init__(self, store: DB) -> None:
        self._store = store
        self._puts: dict[bytes, bytes] = {}
        self._leases: dict[bytes, int] = {}
        self._deletes: list[tuple[bytes, bytes]] = []
        self.revision: int | None = None

    def put(self, key: Bytes, value: Bytes, *, lease: int | Lease | None = None) -> None:
        """Put `key`; what the batch wanted with it before is forgotten."""
        if type(key) is not bytes or not key:
            key = as_key(key)
        self._puts[key] = value if type(value) is bytes else as_bytes(value)
        if lease is not None:
            self._leases[key] = lease if isinstance(lease, int) else lease.id
        elif self._leases:
            self._leases.pop(key, None)

    def delete(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
    ) -> None:
        """Delete a key or a range, with what the batch has put there so far."""
        first, end = key_or_range("delete", key, prefix, start, stop)
        for covered in [first] if not end else [one for one in self._puts if _inside(one, first, end)]:
            self._puts.pop(covered, None)
            self._leases.pop(covered, None)
        self._deletes.append((first, end))

    def __setitem__(self, key: Bytes, value: Bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: Bytes) -> None:
        self.delete(key)

    def __len__(self) -> int:
        """How many puts and deletes are waiting."""
        return len(self._puts) + len(self._deletes)

    def commit(self) -> int:
        """Write it all; returns the revision (of the store, if there was nothing to write)."""
        if not self._deletes and not self._leases:
            puts = list(self._puts.items())
            self.revision = self._store._engine.put_many(puts) if puts else self._store.revision
        else:
            ops = [
                messages.request_op(messages.DELETE_OP, messages.delete_request(first, end))
                for first, end in self._deletes_around_puts()
            ]
            ops += [
                messages.request_op(messages.PUT_OP, messages.put_request(key, value, self._leases.get(key, 0)))
                for key, value in self._puts.items()
            ]
            ((code, answer),) = self._store._engine.commit([(TXN, messages.txn_request((), ops))])
            raise_for(code)
            self.revision = messages.txn_result(answer).revision
        self.discard()
        return self.revision

    def discard(self) -> None:
        """Forget what is waiting."""
        self._puts.clear()
        self._leases.clear()
        self._deletes.clear()

    def _deletes_around_puts(self) -> list[tuple[bytes, bytes]]:
        """The deletes with holes where a key is put: in one txn a put key must not lie in a deleted range."""
        pieces: list[tuple[bytes, bytes]] = []
        puts = sorted(self._puts)
        for first, end in self._deletes:
            if not end:
                if first not in self._puts:
                    pieces.append((first, end))
                continue
            for key in puts:
                if _inside(key, first, end):
                    if first < key:
                        pieces.append((first, key))
                    first = key + b"\0"
            if end == UNBOUNDED or first < end:
                pieces.append((first, end))
        return pieces

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def __repr__(self) -> str:
        return f"<fastkv.Batch puts={len(self._puts)} deletes={len(self._deletes)} revision={self.revision}>"


def _inside(key: bytes, first: bytes, end: bytes) -> bool:
    return first <= key and (end == UNBOUNDED or key < end)
