"""
Leases that end: who is due is revoked through the log, by the member whose clock counts.

    lessor.next_deadline --sleep--> lessor.expired --may this member?--> LEASE_REVOKE --applied--> lessor.revoke

Invariants:
* Nothing is revoked but by a committed command, proposed by the only member or by a leader that a quorum has confirmed.
* A renewal of a lease that is due waits for its revocation and then finds nothing (TTL 0), as in etcd.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastkv.engine import LEASE_REVOKE
from fastkv.errors import Code, Error, from_code
from fastkv.rpc import wire
from fastkv.rpc.status import timed_out

if TYPE_CHECKING:
    from fastkv.server.lessor import Deadlines
    from fastkv.server.log import Log

# Expired leases are revoked at most this many at a time, this often: 1000 a second, as etcd does.
REVOKE_BATCH, REVOKE_PAUSE_S = 500, 0.5
REVOKE_RETRY_S = 1.0

Propose = Callable[[int, bytes], Awaitable[tuple[int, bytes]]]


class Expiry:
    """may_expire: whether this member's clock counts, asked before anything is revoked."""

    def __init__(
        self,
        lessor: Callable[[], Deadlines],
        log: Log,
        now: Callable[[], float],
        propose: Propose,
        may_expire: Callable[[], Awaitable[bool]],
        timeout_s: float,
    ) -> None:
        self._lessor = lessor
        self._log = log
        self._now = now
        self._propose = propose
        self._may_expire = may_expire
        self._timeout_s = timeout_s
        self._expiring: dict[int, asyncio.Future[None]] = {}
        self._moved = asyncio.Event()
        self._revoking: set[asyncio.Task[None]] = set()
        self.leads = True  # a follower lets nothing expire

    def hurry(self) -> None:
        """A lease ends earlier than any did before, or this member leads now."""
        self._moved.set()

    def set_leader(self, leads: bool) -> None:
        self.leads = leads
        self._moved.set()

    async def renew(self, lease: int) -> int:
        """The granted TTL, counted anew; 0 if there is no such lease. Of one that is due the revocation is awaited."""
        if self._lessor().is_expired(lease, self._now()):
            self._moved.set()
            waiting = self._expiring.setdefault(lease, asyncio.get_running_loop().create_future())
            try:
                async with asyncio.timeout(self._timeout_s):
                    await asyncio.shield(waiting)
            except TimeoutError:
                raise timed_out() from None
            return 0
        return self._lessor().renew(lease, self._now())

    def revoked(self, lease: int) -> None:
        """The store does not hold it any more."""
        if waiting := self._expiring.pop(lease, None):
            waiting.set_result(None)

    async def run(self) -> None:
        while True:
            self._moved.clear()
            deadline = self._lessor().next_deadline() if self.leads else None
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._now())):
                    await self._moved.wait()
            except TimeoutError:
                pass
            if not self.leads:
                continue
            due = self._lessor().expired(self._now(), REVOKE_BATCH)
            if due and not await self._may_expire():
                self._put_back(due)
                await asyncio.sleep(REVOKE_RETRY_S)
                continue
            for lease in due:
                task = asyncio.ensure_future(self._revoke(lease))
                self._revoking.add(task)
                task.add_done_callback(self._revoking.discard)
            if len(due) == REVOKE_BATCH:
                await asyncio.sleep(REVOKE_PAUSE_S)

    def _put_back(self, leases: list[int]) -> None:
        for lease in leases:
            self._lessor().retry(lease)

    async def _revoke(self, lease: int) -> None:
        try:
            code, _ = await self._propose(LEASE_REVOKE, wire.int_field(1, lease))
            if code not in (Code.OK, Code.LEASE_NOT_FOUND):
                raise from_code(code)
        except Error as error:
            self._log.warn("failed to revoke lease", lease_id=f"{lease:016x}", error=str(error))
            await asyncio.sleep(REVOKE_RETRY_S)
            self._put_back([lease])
            self._moved.set()
            return
        self.revoked(lease)

    def close(self) -> None:
        for task in self._revoking:
            task.cancel()
