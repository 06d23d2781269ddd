"""
Changes of membership as operators ask for them: etcd's checks, the proposal, the answer.

    add, remove, update, promote --checks--> raft.propose_conf_change --> applied by everybody --> the new membership

A change that Raft cannot take now (another one is not applied yet, there is no leader) is proposed again until the
request's time is up. One that no longer fits when it is applied is refused there, by all members alike.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from fastkv.errors import Error
from fastkv.raft import ConfChangeRefused, Entry, Node, ProposalDropped, batch_origin
from fastkv.rpc import status
from fastkv.server.cluster import membership as memberships
from fastkv.server.cluster.membership import Kind, Member, MemberChange, Membership
from fastkv.server.cluster.own import Sequences
from fastkv.server.flags import split_url

RETRY_S = 0.05
HEALTH_S = 5.0  # connected for so long counts as healthy (etcd's HealthInterval)
READY_RATIO = 0.9  # of the leader's log, for a learner to be promoted


class Contact(Protocol):
    """Since when others are heard from."""

    def active_since(self, member: int) -> float | None:
        """Monotonic seconds; None: not now."""


class _Lost(Exception):
    """The proposal had no effect."""


class Changes:
    def __init__(
        self,
        raft: Node,
        sequences: Sequences,
        contact: Contact,
        kick: Callable[[], None],
        timeout_s: float,
        max_learners: int,
        *,
        strict: bool,
    ) -> None:
        self._raft = raft
        self._sequences = sequences
        self._contact = contact
        self._kick = kick
        self._timeout_s = timeout_s
        self._max_learners = max_learners
        self._strict = strict
        self._waiting: dict[int, asyncio.Future[Membership]] = {}
        self.membership = Membership()

    # -- what operators ask for -------------------------------------------------------------------------------
    async def add(self, peer_urls: Iterable[str], learner: bool) -> tuple[Member, Membership]:
        urls = tuple(sorted(peer_urls))
        if not urls or not all(map(_is_url, urls)):
            raise status.bad_member_urls()
        member = Member(memberships.new_member_id(urls, int(time.time())), "", urls, (), learner)
        if self._strict:
            if not learner and not self._quorum_starts(joining=1):
                raise status.not_enough_started()
            if self._connected(self.membership.voters()) < len(self.membership.voters()):
                raise status.unhealthy()
        if learner and len(self.membership.members) - len(self.membership.voters()) >= self._max_learners:
            raise status.too_many_learners()
        return member, await self.carry_out(MemberChange(Kind.ADD, member))

    async def remove(self, id: int) -> Membership:
        member = self._known(id)
        if self._strict and not member.learner:
            self._check_removal(member)
        return await self.carry_out(MemberChange(Kind.REMOVE, Member(id, "", ())))

    async def update(self, id: int, peer_urls: Iterable[str]) -> Membership:
        member = self._known(id)
        return await self.carry_out(MemberChange(Kind.UPDATE, member._replace(peer_urls=tuple(sorted(peer_urls)))))

    async def promote(self, id: int) -> Membership:
        """The leader's: only it knows how far the learner is."""
        member = self._known(id)
        if not member.learner:
            raise status.member_not_learner()
        progress = self._raft.status().progress
        if not progress:
            raise status.not_leader()
        if id not in progress or progress[id].match < READY_RATIO * progress[self._raft.id].match:
            raise status.learner_not_ready()
        if self._strict and not self._quorum_starts(joining=1, starting=1):
            raise status.not_enough_started()
        return await self.carry_out(MemberChange(Kind.PROMOTE, member))

    def _known(self, id: int) -> Member:
        member = self.membership.get(id)
        if member is None:
            raise status.member_not_found()
        return member

    # -- etcd's checks ----------------------------------------------------------------------------------------
    def _quorum_starts(self, joining: int = 0, starting: int = 0, without: int = 0) -> bool:
        """Whether the voters that have started, and those to be, are a quorum of the voters to be."""
        voters = [member for member in self.membership.voters() if member.id != without]
        started = sum(member.started for member in voters) + starting
        count = len(voters) + joining
        if joining and not starting and started == 1 and count == 2:
            return True  # a second one cannot start before it is added
        return started >= count // 2 + 1

    def _check_removal(self, member: Member) -> None:
        voters = self.membership.voters()
        if len(voters) == 1 or not self._quorum_starts(without=member.id):
            raise status.not_enough_started()
        if member.id != self._raft.id and self._contact.active_since(member.id) is None:
            return  # who is down takes nothing from the quorum that is up
        if self._connected(voters) - 1 < 1 + (len(voters) - 1) // 2:
            raise status.unhealthy()

    def _connected(self, members: Iterable[Member]) -> int:
        """How many of them have been heard from long enough; this one has."""
        before = time.monotonic() - HEALTH_S
        since = (self._contact.active_since(member.id) for member in members if member.id != self._raft.id)
        return 1 + sum(at is not None and at <= before for at in since)

    # -- carrying out -----------------------------------------------------------------------------------------
    async def carry_out(self, change: MemberChange) -> Membership:
        """Until it is applied here. The client's error if it makes no sense, the world's if its time is up."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            if (why_not := memberships.refusal(self.membership, change)) is not None:
                raise why_not
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    return await self._propose(change)
            except (ConfChangeRefused, ProposalDropped, _Lost):
                if time.monotonic() + RETRY_S > deadline:
                    raise status.timed_out() from None
                await asyncio.sleep(RETRY_S)
            except TimeoutError:
                raise status.timed_out() from None

    async def _propose(self, change: MemberChange) -> Membership:
        sequence = self._sequences.next()
        self._raft.propose_conf_change(memberships.conf_change(self.membership, change), sequence)
        waiting: asyncio.Future[Membership] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = waiting
        self._kick()
        try:
            return await waiting
        finally:
            self._waiting.pop(sequence, None)

    # -- what became of it ------------------------------------------------------------------------------------
    def applied(self, entry: Entry, error: Error | None) -> None:
        """A change by whomever was applied, or refused with the error."""
        origin, sequence = batch_origin(entry.data)
        waiting = self._waiting.get(sequence) if origin == self._raft.id else None
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(self.membership)
        else:
            waiting.set_exception(error)

    def lost(self, sequences: Iterable[int]) -> None:
        self._end(sequences, _Lost())

    def uncertain(self, sequences: Iterable[int]) -> None:
        self._end(sequences, status.timed_out())

    def close(self, error: Error) -> None:
        self._end(list(self._waiting), error)

    def _end(self, sequences: Iterable[int], error: Exception) -> None:
        for sequence in sequences:
            waiting = self._waiting.get(sequence)
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)


def _is_url(url: str) -> bool:
    try:
        split_url(url)
    except ValueError:
        return False
    return True
