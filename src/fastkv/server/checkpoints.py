"""
Lease checkpoints: what is left of a lease is written down now and then, so that a restart or a new leader does not give
it all its time again. On with the feature gate LeaseCheckpoint.

    every 5 minutes   leases that have run that long    --LEASE_CHECKPOINT(id, remaining)--> store
    a renewal         of a lease with a checkpoint      --LEASE_CHECKPOINT(id, 0)----------> store, then the clock

Invariants:
* A lease is renewed only when no checkpoint of it stands in the store: one that stood there would end it too early.
* Who does not lead writes none.
* At most 1,000 leases a command and a second, as in etcd.

Left out: leases shorter than the interval, which have all their time again as without checkpoints.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastkv.engine import LEASE_CHECKPOINT, Engine
from fastkv.errors import Error, from_code
from fastkv.rpc.wire import int_field, message_field

if TYPE_CHECKING:
    from fastkv.server.lessor import Deadlines
    from fastkv.server.log import Log

INTERVAL_S = 300.0
BATCH, PAUSE_S = 1000, 1.0

Propose = Callable[[int, bytes], Awaitable[tuple[int, bytes]]]
Sleep = Callable[[float], Awaitable[None]]


class Checkpoints:
    def __init__(
        self,
        engine: Engine,
        lessor: Callable[[], Deadlines],
        now: Callable[[], float],
        propose: Propose,
        leads: Callable[[], bool],
        log: Log,
    ) -> None:
        self._engine = engine
        self._lessor = lessor
        self._now = now
        self._propose = propose
        self._leads = leads
        self._log = log
        self._marked: set[int] = set()

    def restore(self) -> None:
        """Look at the store: this member begins to time the leases."""
        self._marked = {lease for lease, _, remaining in self._engine.leases() if remaining}

    async def run(self, sleep: Sleep) -> None:
        """For ever."""
        while True:
            await sleep(INTERVAL_S)
            if self._leads():
                await self._write(sleep)

    async def _write(self, sleep: Sleep) -> None:
        worn = [(lease, left_s) for lease, ttl, _ in self._engine.leases() if (left_s := self._left(lease, ttl))]
        for start in range(0, len(worn), BATCH):
            batch = worn[start : start + BATCH]
            # Marked before it is known: a renewal meanwhile clears what may be on its way, behind it.
            self._marked.update(lease for lease, _ in batch)
            try:
                await self._checkpoint(batch)
            except Error as error:
                self._log.warn("failed to checkpoint leases", leases=len(batch), error=str(error))
            if start + BATCH < len(worn):
                await sleep(PAUSE_S)

    def _left(self, lease: int, ttl: int) -> int:
        """Seconds, begun ones counted; 0 if its whole time is off by less than an interval, or the lease is due."""
        found = self._lessor().remaining(lease, self._now())
        return found[0] + 1 if found and 0 <= found[0] <= ttl - INTERVAL_S else 0

    async def clear(self, lease: int) -> None:
        """Before the lease is renewed. Raises what keeps the store from it."""
        if lease in self._marked:
            await self._checkpoint([(lease, 0)])
            self._marked.discard(lease)

    async def _checkpoint(self, remaining: list[tuple[int, int]]) -> None:
        request = b"".join(message_field(1, int_field(1, lease) + int_field(2, left_s)) for lease, left_s in remaining)
        code, _ = await self._propose(LEASE_CHECKPOINT, request)
        if code:
            raise from_code(code)
