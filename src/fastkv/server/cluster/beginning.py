"""
How a member begins: the first election is hurried, then it tells all others its name and where clients find it.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastkv.errors import Error
from fastkv.raft import NO_MEMBER, Node
from fastkv.server.cluster.changes import Changes, Contact
from fastkv.server.cluster.membership import Kind, Member, MemberChange
from fastkv.server.config import Config
from fastkv.server.log import Log

PUBLISH_RETRY_S = 0.5
TICKS_LEFT = 2  # of an election timeout that is hurried


class Beginning:
    def __init__(
        self,
        config: Config,
        raft: Node,
        changes: Changes,
        contact: Contact,
        leader_known: Callable[[], Awaitable[None]],
        news: Callable[[], Awaitable[None]],
        kick: Callable[[], None],
        log: Log,
    ) -> None:
        """news: returns when the leader or the membership has changed."""
        self._config = config
        self._raft = raft
        self._changes = changes
        self._contact = contact
        self._leader_known = leader_known
        self._news = news
        self._kick = kick
        self._log = log
        self._hurry = config.hurry_first_election

    def hurry_election(self) -> None:
        """Somebody is heard. If that makes a quorum and nobody leads yet, most of the first timeout is skipped."""
        raft = self._raft
        if raft.leader != NO_MEMBER:
            self._hurry = False
        voters = self._changes.membership.voters()
        heard = sum(self._contact.active_since(member.id) is not None for member in voters)
        if self._hurry and heard > 0 and heard + 1 > len(voters) // 2:
            self._hurry = False
            for _ in range(self._config.election_ticks - TICKS_LEFT):
                raft.tick()
            self._kick()

    def _own(self) -> Member | None:
        return self._changes.membership.get(self._raft.id)

    def _is_published(self) -> bool:
        own = self._own()
        return own is not None and (own.name, own.client_urls) == (
            self._config.name,
            self._config.advertise_client_urls,
        )

    async def publish(self) -> None:
        """Until everybody knows this member's name and client URLs."""
        name, client_urls = self._config.name, self._config.advertise_client_urls
        await self._leader_known()
        while not self._is_published():
            own = self._own()
            try:
                if own is not None:
                    change = MemberChange(Kind.PUBLISH, own._replace(name=name, client_urls=client_urls))
                    await self._changes.carry_out(change)
                    continue
            except Error as error:
                self._log.warn("failed to publish local member to cluster through raft", error=str(error))
            await asyncio.sleep(PUBLISH_RETRY_S)
            await self._leader_known()
        self._log.info(
            "published local member to cluster through raft",
            local_member_id=f"{self._raft.id:x}",
            client_urls=list(client_urls),
        )

    async def ready(self) -> None:
        """Until this member is known to all and knows a leader."""
        await self._leader_known()
        while not self._is_published():
            await self._news()
            await self._leader_known()
