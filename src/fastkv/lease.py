"""
Leases of an embedded store: who keeps time, and what a caller holds in the hand.

The store knows which leases there are and which keys hang on them; time is ours. One `Lessor` a DB keeps the deadlines;
while there are leases, one daemon thread sleeps until the next deadline and commits the revocation, which deletes the
keys in one revision and shows in watches like any delete.

    grant(ttl)            deadline = now + ttl
    keepalive             deadline = now + ttl
    deadline passes       LEASE_REVOKE is committed; a lease that is held (`with db.lease(10):`) is renewed instead
    the store is opened   every lease in it starts again with its full ttl, or with what a checkpoint of the lease says
    is left

Invariants:
* a lease whose revocation has begun cannot be renewed: it is taken out first, under the lock, and put back as it was if
  the store did not take the revocation (a full disk, the CORRUPT alarm).
* a lease never expires before its deadline; how long after depends on the machine only.
* no thread runs while there is no lease, nor in a store opened readonly.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from fastkv import messages
from fastkv.engine import LEASE_GRANT, LEASE_REVOKE, Engine
from fastkv.errors import (
    ClosedError,
    ClusterCorruptError,
    Code,
    Error,
    InvalidRequestError,
    LeaseNotFoundError,
    PoisonedError,
    QuotaError,
    StorageError,
    from_code,
)
from fastkv.keys import raise_for

if TYPE_CHECKING:
    from fastkv.store import DB

RETRY_S = 1.0  # after a revocation that the disk or an alarm refused


class Clock(Protocol):
    """What time is, for leases; tests have one that stands still."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on the condition, which the caller holds, for at most so long (None: until notified)."""


class MonotonicClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        condition.wait(seconds if seconds is None else min(seconds, threading.TIMEOUT_MAX))


class _Taken(NamedTuple):
    """What is known of a lease that is on its way out."""

    deadline: float
    ttl: int
    is_held: bool
    is_private: bool


class Lessor:
    """The deadlines of one store's leases. All methods may be called from any thread."""

    def __init__(self, engine: Engine, clock: Clock, readonly: bool) -> None:
        self._engine = engine
        self._clock = clock
        self._changed = threading.Condition()
        self._deadlines: dict[int, tuple[float, int]] = {}  # lease -> (deadline, ttl)
        self._order: list[tuple[float, int]] = []  # heap of (deadline, lease); stale unless _deadlines agrees
        self._held: set[int] = set()
        self._private: set[int] = set()  # made by put(ttl=): nobody but the key's next put(ttl=) renews them
        self._thread: threading.Thread | None = None
        self._stopped = False
        if not readonly:
            with self._changed:
                for lease, ttl, remaining in engine.leases():
                    self._set(lease, ttl, remaining or ttl)

    # -- what callers ask for ---------------------------------------------------------------------------------

    def new_grant(self, ttl: float) -> tuple[int, int, bytes]:
        """(id, whole ttl, LeaseGrantRequest) of a lease yet to be committed; `started` follows when it is."""
        whole = whole_seconds(ttl)
        lease = int.from_bytes(os.urandom(8)) >> 1 or 1
        return lease, whole, messages.lease_grant_request(whole, lease)

    def grant(self, ttl: float, lease: int = 0) -> tuple[int, int]:
        """Commit a new lease, with an id of our choice if `lease` is 0; returns (id, ttl)."""
        chosen, whole, request = self.new_grant(ttl)
        if lease:
            chosen, request = lease, messages.lease_grant_request(whole, lease)
        ((code, _),) = self._engine.commit([(LEASE_GRANT, request)])
        raise_for(code)
        self.started(chosen, whole)
        return chosen, whole

    def started(self, lease: int, ttl: int, private: bool = False) -> None:
        """The grant is committed: the time runs."""
        with self._changed:
            if private:
                self._private.add(lease)
            self._set(lease, ttl, ttl)

    def renew(self, lease: int) -> int:
        """Start the time anew; returns the ttl (s). LeaseNotFoundError if the lease is not there, or on its way out."""
        with self._changed:
            ttl = self._ttl(lease)
            self._set(lease, ttl, ttl)
            return ttl

    def renew_private(self, lease: int, ttl: int) -> bool:
        """Start the time of a put(ttl=)'s lease anew, if it is one and has this ttl."""
        with self._changed:
            if lease not in self._private or self._deadlines.get(lease, (0.0, 0))[1] != ttl:
                return False
            self._set(lease, ttl, ttl)
            return True

    def hold(self, lease: int) -> None:
        """Renew the lease by ourselves from now on, until it is revoked."""
        with self._changed:
            self._set(lease, self._ttl(lease), self._ttl(lease))
            self._held.add(lease)

    def release(self, lease: int) -> None:
        """Renew it no more; it expires when its time is up."""
        with self._changed:
            self._held.discard(lease)

    def revoke(self, lease: int) -> None:
        """Commit the revocation: the lease's keys are deleted, in one revision."""
        with self._changed:
            taken = self._take(lease)
            self._changed.notify()
        try:
            self._commit_revocation(lease)
        except LeaseNotFoundError:
            raise
        except Error:
            if taken is not None:
                with self._changed:
                    self._put_back(lease, taken, taken.deadline - self._clock.now())
            raise

    def _commit_revocation(self, lease: int) -> None:
        ((code, _),) = self._engine.commit([(LEASE_REVOKE, messages.lease_revoke_request(lease))])
        raise_for(code)

    def remaining(self, lease: int) -> float:
        """Seconds until the lease expires, 0.0 if it is overdue or gone."""
        with self._changed:
            return max(0.0, self._deadlines.get(lease, (0.0, 0))[0] - self._clock.now())

    def stop(self) -> None:
        """Let no lease expire any more and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- under the lock ---------------------------------------------------------------------------------------

    def _ttl(self, lease: int) -> int:
        if lease not in self._deadlines:
            raise from_code(Code.LEASE_NOT_FOUND)
        return self._deadlines[lease][1]

    def _set(self, lease: int, ttl: int, seconds: float) -> None:
        deadline = self._clock.now() + seconds
        self._deadlines[lease] = (deadline, ttl)
        heapq.heappush(self._order, (deadline, lease))
        if len(self._order) > 2 * len(self._deadlines) + 64:  # mostly stale: renewed again and again
            self._order = [(deadline, lease) for lease, (deadline, _) in self._deadlines.items()]
            heapq.heapify(self._order)
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="fastkv-lessor", daemon=True)
            self._thread.start()
        elif self._order[0] == (deadline, lease):
            self._changed.notify()

    def _take(self, lease: int) -> _Taken | None:
        """Forgets the lease; None if it is not known."""
        if lease not in self._deadlines:
            return None
        taken = _Taken(*self._deadlines.pop(lease), lease in self._held, lease in self._private)
        self._held.discard(lease)
        self._private.discard(lease)
        return taken

    def _put_back(self, lease: int, taken: _Taken, seconds: float) -> None:
        """Its revocation failed; it ends in so many seconds."""
        if taken.is_held:
            self._held.add(lease)
        if taken.is_private:
            self._private.add(lease)
        self._set(lease, taken.ttl, seconds)

    def _next_expired(self) -> tuple[int, _Taken] | None:
        """Waits for a lease to expire and takes it; None when there is nothing left to wait for."""
        while not self._stopped and self._deadlines:
            deadline, lease = self._order[0]
            if self._deadlines.get(lease, (None, 0))[0] != deadline:
                heapq.heappop(self._order)
                continue
            seconds = deadline - self._clock.now()
            if seconds > 0:
                self._clock.wait(self._changed, seconds)
                continue
            heapq.heappop(self._order)
            ttl = self._deadlines[lease][1]
            if lease in self._held:
                self._set(lease, ttl, ttl)
                continue
            taken = self._take(lease)
            assert taken is not None
            return lease, taken
        self._thread = None
        self._order.clear()
        return None

    # -- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                expired = self._next_expired()
            if expired is None:
                return
            lease, taken = expired
            try:
                self._commit_revocation(lease)
            except LeaseNotFoundError:
                pass  # somebody else has revoked it
            except (ClosedError, PoisonedError):
                with self._changed:
                    self._stopped = True
                    self._thread = None
                return
            except (QuotaError, StorageError, ClusterCorruptError):  # it stays overdue until there is room
                with self._changed:
                    self._put_back(lease, taken, RETRY_S)


class Lease:
    """A lease in the hand: `db.lease(ttl)`. Keys put with it are deleted when it is revoked or expires.

    As a context manager it is held: renewed for as long as the block runs (so it outlives its ttl only while this
    process lives), and revoked at the end. Without a block it expires `ttl` seconds after the last `keepalive()`.
    """

    __slots__ = ("_store", "id", "ttl")

    def __init__(self, store: DB, id: int, ttl: int) -> None:
        self._store = store
        self.id = id
        self.ttl = ttl

    def keepalive(self) -> int:
        """Start the time anew; returns the ttl (s). LeaseNotFoundError if it is revoked or expired."""
        return self._store._lessor.renew(self.id)

    def revoke(self) -> None:
        """End it now: its keys are deleted in one revision. LeaseNotFoundError if it is revoked or expired."""
        self._store._lessor.revoke(self.id)

    @property
    def remaining(self) -> float:
        """Seconds until it expires; 0.0 if it is gone, or the store is open readonly."""
        return self._store._lessor.remaining(self.id)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys that hang on it, ascending."""
        return tuple(self._store._engine.lease_keys(self.id))

    def __enter__(self) -> Self:
        self._store._lessor.hold(self.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._store._lessor.release(self.id)  # first: if it cannot be revoked it shall at least expire
        with suppress(LeaseNotFoundError):  # revoked inside the block: it is gone, as it should be
            self._store._lessor.revoke(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lease) and (self._store, self.id) == (other._store, other.id)

    def __hash__(self) -> int:
        return hash((self._store, self.id))

    def __repr__(self) -> str:
        return f"<fastkv.Lease id={self.id} ttl={self.ttl}>"


def whole_seconds(ttl: float) -> int:
    """A ttl as the store takes it: whole seconds, from 1, fractions rounded up."""
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl is a number of seconds, not {type(ttl).__name__}")
    if not math.isfinite(ttl) or ttl <= 0:
        raise InvalidRequestError(f"ttl is a number of seconds above 0, not {ttl}")
    return math.ceil(ttl)
