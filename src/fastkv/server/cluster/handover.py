"""
Leadership to another member: because an operator asks for it, or because this one stops.

While leadership is handed over proposals wait; those under way are answered, or lost and proposed to the new leader at
once. So clients see a pause of a few round trips and no error.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastkv.raft import NO_MEMBER, Node, TransferRefused
from fastkv.rpc import status


class Handover:
    def __init__(
        self, raft: Node, kick: Callable[[], None], leader_changed: Callable[[], Awaitable[None]], timeout_s: float
    ) -> None:
        """leader_changed: returns at the next change of leader or term."""
        self._raft = raft
        self._kick = kick
        self._leader_changed = leader_changed
        self._timeout_s = timeout_s

    async def move(self, to: int) -> None:
        """Until `to` leads. The client's errors are etcd's."""
        raft = self._raft
        if not raft.is_leader:
            raise status.not_leader()
        if not raft.is_voter(to):
            raise status.bad_transferee()
        if to == raft.id:
            return
        try:
            raft.transfer_leadership(to)
        except TransferRefused:
            raise status.bad_transferee() from None
        self._kick()
        try:
            async with asyncio.timeout(self._timeout_s):
                while raft.leader in (raft.id, NO_MEMBER):
                    await self._leader_changed()
        except TimeoutError:
            raise status.transfer_timed_out() from None

    def successor(self) -> int:
        """Who is to lead when this member stops: the voter that holds most; NO_MEMBER if that is not needed."""
        raft = self._raft
        if not raft.is_leader:
            return NO_MEMBER
        candidates = [
            (progress.match, member)
            for member, progress in raft.progress.items()
            if member != raft.id and raft.is_voter(member) and progress.active
        ]
        return max(candidates, default=(0, NO_MEMBER))[1]
