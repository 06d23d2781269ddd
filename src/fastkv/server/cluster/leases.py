"""
The time of leases in a cluster: the leader's clock alone decides.

    keepalive at the leader      a read barrier, then the lessor
    keepalive at a follower      all that wait, in one question to the leader; the answers come back in one
    expiry                       leader only, through the log; its first act is to give every lease its time again

The barrier (ReadIndex, and applied that far) does two things: a leader that was deposed while it slept answers nothing,
and a lease granted through any member a moment ago is found.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgpack

from fastkv.errors import Error
from fastkv.raft import NO_MEMBER, Node
from fastkv.rpc.status import leader_changed, no_leader
from fastkv.server.peers import PeerError

RENEW, REMAINING = "lease-renew", "lease-remaining"
LEASES_MAX = 10_000  # in one question
RETRY_S = 0.05
UNKNOWN = -1


class Lessor(Protocol):
    """What is asked of the node when it leads."""

    async def renew_here(self, lease: int) -> int:
        """The TTL, counted anew, 0 if there is no such lease."""

    def remaining_here(self, lease: int) -> tuple[int, int] | None:
        """(remaining seconds, granted TTL)."""


class ClusterLeases:
    def __init__(
        self,
        raft: Node,
        lessor: Lessor,
        confirm: Callable[[float], Awaitable[None]],
        ask: Callable[[int, str, bytes, float], Awaitable[bytes]],
        leader_known: Callable[[], Awaitable[None]],
        timeout_s: float,
    ) -> None:
        """leader_known: returns when there is a leader."""
        self._raft = raft
        self._lessor = lessor
        self._confirm = confirm
        self._ask = ask
        self._leader_known = leader_known
        self._timeout_s = timeout_s
        self._waiting: dict[int, list[asyncio.Future[int]]] = {}
        self._sender: asyncio.Task[None] | None = None

    # -- from clients -----------------------------------------------------------------------------------------
    async def renew(self, lease: int) -> int:
        """The granted TTL, counted anew; 0 if there is no such lease."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lease, []).append(answer)
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError:
            raise no_leader() from None

    async def renew_all(self, leases: list[int]) -> list[tuple[int, int]]:
        """(lease, TTL) of each, by the leader wherever it is."""
        packed = await self._ask_leader(RENEW, msgpack.packb(leases))
        return list(zip(leases, msgpack.unpackb(packed), strict=True))

    async def remaining(self, lease: int) -> tuple[int, int] | None:
        """(remaining seconds, granted TTL), None if there is no such lease."""
        packed = await self._ask_leader(REMAINING, msgpack.packb(lease))
        remaining_s, granted_s = msgpack.unpackb(packed)
        return None if remaining_s == UNKNOWN else (remaining_s, granted_s)

    async def _send(self) -> None:
        """One question at a time; what comes meanwhile goes with the next."""
        try:
            while self._waiting:
                leases = list(self._waiting)[:LEASES_MAX]
                askers = {lease: self._waiting.pop(lease) for lease in leases}
                try:
                    ttls = dict(await self.renew_all(leases))
                except Error as error:
                    for answer in [answer for waiting in askers.values() for answer in waiting]:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for lease, waiting in askers.items():
                    for answer in waiting:
                        if not answer.done():
                            answer.set_result(ttls[lease])
        finally:
            self._sender = None

    async def _ask_leader(self, kind: str, body: bytes) -> bytes:
        """The leader's answer, this member's own if it leads; asked again while leaders come and go."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    await self._leader_known()
                    leader = self._raft.leader
                    try:
                        if leader == self._raft.id:
                            return await (self.answer_renew if kind == RENEW else self.answer_remaining)(leader, body)
                        if leader != NO_MEMBER:
                            return await self._ask(leader, kind, body, self._timeout_s)
                    except (Error, PeerError):
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise no_leader() from None

    # -- from members -----------------------------------------------------------------------------------------
    async def _lead(self) -> None:
        """Return only in a leader that has applied all that was acknowledged before; Error in others."""
        term = self._raft.term
        if not self._raft.is_leader:
            raise leader_changed()
        await self._confirm(self._timeout_s)
        if not self._raft.is_leader or self._raft.term != term:
            raise leader_changed()

    async def answer_renew(self, member: int, body: bytes) -> bytes:
        """ValueError: the question is none."""
        leases = msgpack.unpackb(body)
        await self._lead()
        ttls = await asyncio.gather(*(self._lessor.renew_here(lease) for lease in leases))
        packed: bytes = msgpack.packb(ttls)
        return packed

    async def answer_remaining(self, member: int, body: bytes) -> bytes:
        lease = msgpack.unpackb(body)
        await self._lead()
        packed: bytes = msgpack.packb(self._lessor.remaining_here(lease) or (UNKNOWN, 0))
        return packed

    async def may_expire(self) -> bool:
        """Whether this member leads, confirmed by a quorum, so that its clock is the one that counts."""
        try:
            await self._lead()
        except Error:
            return False
        return True

    def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
