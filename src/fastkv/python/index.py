"""
The key index: a sorted map from key to that key's history.

    blocks   [ [a, b, c] [f, g] [m, n, z] ]      sorted lists of at most BLOCK_KEYS_MAX keys, in order
    chains   { a: [put@2, put@5], b: [put@3, delete@4], ... }

Invariants:
* every key of `chains` stands in exactly one block; no block is empty.
* along a chain (main, sub) rises strictly; a chain is never empty.
Thread safety: none; the engine's lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from operator import attrgetter, itemgetter
from typing import NamedTuple

from fastkv.types import KeyValue

BLOCK_KEYS_MAX = 1024

_main = attrgetter("main")


class Record(NamedTuple):
    """One put or delete of one key. A tombstone's kv has key and mod_revision only."""

    main: int
    sub: int
    tombstone: bool
    kv: KeyValue


Chain = list[Record]


def visible_at(chain: Chain, revision: int) -> Record | None:
    """The newest record with main <= revision, a tombstone included; None if there is none."""
    if chain[-1].main <= revision:
        return chain[-1]
    at = bisect_right(chain, revision, key=_main)
    return chain[at - 1] if at else None


def live_at(chain: Chain, revision: int) -> KeyValue | None:
    """What the key holds at the revision."""
    record = visible_at(chain, revision)
    return None if record is None or record.tombstone else record.kv


def since(chain: Chain, compact_revision: int) -> Chain:
    """
    What a compaction leaves of a chain: all above compact_revision, and the newest record at or below it unless that is
    a tombstone below it (one exactly at it stays, because watches may start there).
    """
    at = bisect_right(chain, compact_revision, key=_main)
    if at and not (chain[at - 1].tombstone and chain[at - 1].main < compact_revision):
        at -= 1
    return chain[at:]


def bounds(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """etcd's rule for intervals as [start, stop); stop None = no upper bound."""
    if not range_end:
        return key, key + b"\0"
    return key, None if range_end == b"\0" else range_end


class Index:
    def __init__(self) -> None:
        self.chains: dict[bytes, Chain] = {}
        self._blocks: list[list[bytes]] = []

    def __len__(self) -> int:
        return len(self.chains)

    def get(self, key: bytes) -> Chain | None:
        return self.chains.get(key)

    def append(self, record: Record) -> None:
        """The newest record of its key."""
        key = record.kv.key
        chain = self.chains.get(key)
        if chain is None:
            self.chains[key] = [record]
            self._insert(key)
        else:
            chain.append(record)

    def remove(self, key: bytes) -> None:
        del self.chains[key]
        at = self._block_of(key)
        block = self._blocks[at]
        del block[bisect_left(block, key)]
        if not block:
            del self._blocks[at]

    def ascending(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Keys in [start, stop), ascending; stop None = no upper bound. The index must not change meanwhile."""
        at = max(self._block_of(start), 0)
        for block in self._blocks[at:]:
            if stop is not None and block[0] >= stop:
                return
            first = bisect_left(block, start) if block[0] < start else 0
            last = len(block) if stop is None or block[-1] < stop else bisect_left(block, stop)
            yield from block[first:last]

    def _block_of(self, key: bytes) -> int:
        """The block that holds the key if any does; -1 if it is below all of them."""
        return bisect_right(self._blocks, key, key=itemgetter(0)) - 1

    def _insert(self, key: bytes) -> None:
        if not self._blocks:
            self._blocks.append([key])
            return
        at = max(self._block_of(key), 0)
        block = self._blocks[at]
        insort(block, key)
        if len(block) > BLOCK_KEYS_MAX:
            middle = len(block) // 2
            self._blocks.insert(at + 1, block[middle:])
            del block[middle:]

    def check(self) -> list[str]:
        """What is wrong, [] if nothing."""
        wrong = []
        keys = [key for block in self._blocks for key in block]
        if keys != sorted(self.chains):
            wrong.append("index: the blocks do not hold the keys in order, each once")
        if not all(self._blocks):
            wrong.append("index: an empty block")
        for key, chain in self.chains.items():
            revisions = [(record.main, record.sub) for record in chain]
            if not chain or revisions != sorted(set(revisions)) or any(record.kv.key != key for record in chain):
                wrong.append(f"index: the history of {key!r} is not ascending")
        return wrong
