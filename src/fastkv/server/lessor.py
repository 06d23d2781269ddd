"""
When leases end.

Owns the deadlines of the leases that the store holds; the store owns which keys hang on them. `now` is an argument
everywhere (seconds, monotonic), so tests take no time. Used by the event loop's thread only.

Invariants:
* A lease is here exactly while it is in the store, as far as applied commands have been reported.
* Nothing expires by itself: `expired` names who is due, the node proposes the revocation, and `revoke` follows its
  apply.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Lease:
    """ttl: as granted, seconds. deadline: when it ends if nobody renews it."""

    ttl: int
    deadline: float


class Deadlines(Protocol):
    """The Lessor below, or the native front end's LeaseClock."""

    def __contains__(self, lease: int) -> bool: ...
    def restore(self, leases: Iterable[tuple[int, int, int]], now: float, grace_s: float) -> None: ...
    def grant(self, lease: int, ttl: int, now: float) -> None: ...
    def renew(self, lease: int, now: float) -> int: ...
    def revoke(self, lease: int) -> None: ...
    def is_expired(self, lease: int, now: float) -> bool: ...
    def remaining(self, lease: int, now: float) -> tuple[int, int] | None: ...
    def ids(self) -> list[int]: ...
    def next_deadline(self) -> float | None: ...
    def expired(self, now: float, limit: int) -> list[int]: ...
    def retry(self, lease: int) -> None: ...


class Lessor:
    """Deadlines by lease id."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        # (deadline, id); an entry whose deadline is no longer the lease's is passed over when it comes up.
        self._heap: list[tuple[float, int]] = []

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def __len__(self) -> int:
        return len(self._leases)

    def restore(self, leases: Iterable[tuple[int, int, int]], now: float, grace_s: float) -> None:
        """Every (id, ttl, remaining or 0) of the store gets its time again, and a grace: its client was cut off too."""
        for lease, ttl, remaining in leases:
            self._set(lease, Lease(ttl, now + (remaining or ttl) + grace_s))

    def grant(self, lease: int, ttl: int, now: float) -> None:
        self._set(lease, Lease(ttl, now + ttl))

    def renew(self, lease: int, now: float) -> int:
        """The granted TTL, counted from now again; 0 if there is no such lease or it has expired."""
        found = self._leases.get(lease)
        if found is None or found.deadline <= now:
            return 0
        self._set(lease, Lease(found.ttl, now + found.ttl))
        return found.ttl

    def revoke(self, lease: int) -> None:
        self._leases.pop(lease, None)

    def is_expired(self, lease: int, now: float) -> bool:
        """Whether the lease is due but not revoked yet."""
        found = self._leases.get(lease)
        return found is not None and found.deadline <= now

    def remaining(self, lease: int, now: float) -> tuple[int, int] | None:
        """(remaining seconds, granted TTL), None if there is no such lease."""
        found = self._leases.get(lease)
        return None if found is None else (int(found.deadline - now), found.ttl)

    def ids(self) -> list[int]:
        """All ids, the one that ends first in front."""
        return sorted(self._leases, key=lambda lease: (self._leases[lease].deadline, lease))

    def next_deadline(self) -> float | None:
        """When `expired` has something to say next."""
        while self._heap and not self._is_current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float, limit: int) -> list[int]:
        """Up to `limit` leases that are due; each is named once, unless it is put back with `retry`."""
        due: list[int] = []
        while len(due) < limit and (deadline := self.next_deadline()) is not None and deadline <= now:
            due.append(heapq.heappop(self._heap)[1])
        return due

    def retry(self, lease: int) -> None:
        """The revocation failed: `expired` shall name the lease again."""
        if lease in self._leases:
            heapq.heappush(self._heap, (self._leases[lease].deadline, lease))

    def _set(self, lease: int, value: Lease) -> None:
        self._leases[lease] = value
        heapq.heappush(self._heap, (value.deadline, lease))
        # Renewals leave entries behind; without this a client that renews for ever would grow the heap for ever.
        if len(self._heap) > 64 + 4 * len(self._leases):
            self._heap = [(held.deadline, key) for key, held in self._leases.items()]
            heapq.heapify(self._heap)

    def _is_current(self, deadline: float, lease: int) -> bool:
        found = self._leases.get(lease)
        return found is not None and found.deadline == deadline
