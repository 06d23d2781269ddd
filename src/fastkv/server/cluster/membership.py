"""
Who is a member: the value that every member computes alike from the log, and its bytes.

    membership := [version, [[id, name, peer URLs, client URLs, learner] ...], [removed id ...], base]      msgpack
    change     := [kind, id, name, peer URLs, client URLs, learner]                the context of a ConfChange

A change travels as the context of a raft.ConfChange. What it makes of a membership is decided where it is applied, by
`applied`, from nothing but the two: so all members decide alike. A change that no longer fits is refused there.

Invariants:
* Ids ascend; no two members share a peer URL; an id that was removed never comes back.
* The raft configuration is a function of the membership: voters and learners, never a joint one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from fastkv.errors import Code, Error, from_code
from fastkv.raft import Change, ChangeKind, ConfChange, ConfState
from fastkv.rpc import status

VERSION = 1


class Member(NamedTuple):
    """name: empty until it has started for the first time (unless it was among the first members)."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()
    learner: bool = False

    @property
    def started(self) -> bool:
        return bool(self.name)


class Membership(NamedTuple):
    """base: up to this index the log does not tell how it came about: who joins needs a snapshot of it or of later."""

    members: tuple[Member, ...] = ()
    removed: frozenset[int] = frozenset()
    base: int = 0

    def get(self, id: int) -> Member | None:
        return next((member for member in self.members if member.id == id), None)

    def voters(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.learner)

    def conf(self) -> ConfState:
        """As Raft sees it."""
        return ConfState(
            tuple(member.id for member in self.members if not member.learner),
            tuple(member.id for member in self.members if member.learner),
        )

    def replaced(self, member: Member) -> Membership:
        """With this one in the place of the one of its id, or added."""
        others = [other for other in self.members if other.id != member.id]
        return self._replace(members=tuple(sorted([*others, member])))

    def without(self, id: int) -> Membership:
        members = tuple(member for member in self.members if member.id != id)
        return self._replace(members=members, removed=self.removed | {id})


class Kind(IntEnum):
    ADD = 0
    REMOVE = 1
    UPDATE = 2  # peer URLs
    PROMOTE = 3
    PUBLISH = 4  # name and client URLs, by the member itself


class MemberChange(NamedTuple):
    kind: Kind
    member: Member


# -- bytes ----------------------------------------------------------------------------------------------------
def encode(membership: Membership) -> bytes:
    packed: bytes = msgpack.packb((VERSION, membership.members, sorted(membership.removed), membership.base))
    return packed


def decode(data: bytes) -> Membership:
    """What `encode` wrote; b"" is nobody. CorruptError."""
    if not data:
        return Membership()
    try:
        version, members, removed, base = msgpack.unpackb(data, use_list=False)
        if version != VERSION:
            raise ValueError(f"version {version}")
        return Membership(tuple(_member(fields) for fields in members), frozenset(removed), int(base))
    except (ValueError, TypeError, msgpack.UnpackException) as reason:
        raise from_code(Code.CORRUPT, f"fastkv: the membership cannot be read: {reason!r}") from None


def encode_change(change: MemberChange) -> bytes:
    packed: bytes = msgpack.packb((int(change.kind), *change.member))
    return packed


def decode_change(data: bytes) -> MemberChange:
    """CorruptError."""
    try:
        kind, *fields = msgpack.unpackb(data, use_list=False)
        return MemberChange(Kind(kind), _member(fields))
    except (ValueError, TypeError, msgpack.UnpackException) as reason:
        raise from_code(Code.CORRUPT, f"fastkv: a change of membership cannot be read: {reason!r}") from None


def _member(fields: Iterable[Any]) -> Member:
    id, name, peer_urls, client_urls, learner = fields
    member = Member(id, name, tuple(peer_urls), tuple(client_urls), learner)
    if not (isinstance(id, int) and 0 < id < 1 << 64 and isinstance(name, str) and isinstance(learner, bool)):
        raise ValueError(f"{member} is no member")
    if not all(isinstance(url, str) for url in (*peer_urls, *client_urls)):
        raise ValueError(f"{member} has URLs that are none")
    return member


# -- changes --------------------------------------------------------------------------------------------------
def new_member_id(peer_urls: Iterable[str], unix_s: int) -> int:
    """As etcd computes it for a member that joins a running cluster."""
    text = "".join(sorted(peer_urls)) + str(unix_s)
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:8], "big")


def conf_change(membership: Membership, change: MemberChange) -> ConfChange:
    """The change as Raft takes it. One that leaves the voters as they are names the role that the member has."""
    id = change.member.id
    if change.kind is Kind.REMOVE:
        step = Change(ChangeKind.REMOVE, id)
    else:
        step = Change(_role(membership, change), id)
    return ConfChange((step,), context=encode_change(change))


def _role(membership: Membership, change: MemberChange) -> ChangeKind:
    if change.kind is Kind.PROMOTE:
        return ChangeKind.ADD_VOTER
    known = membership.get(change.member.id)
    learner = known.learner if known is not None and change.kind is not Kind.ADD else change.member.learner
    return ChangeKind.ADD_LEARNER if learner else ChangeKind.ADD_VOTER


def refusal(membership: Membership, change: MemberChange) -> Error | None:
    """Why the change makes no sense for this membership, None if it does. The client's error."""
    kind, member = change
    known = membership.get(member.id)
    if kind is Kind.ADD:
        if known is not None or member.id in membership.removed:
            return status.member_exists()
        return status.peer_url_exists() if _taken(membership, member) else None
    if known is None:
        return status.member_not_found()
    if kind is Kind.REMOVE and membership.voters() == (known,):
        return status.not_enough_started()
    if kind is Kind.UPDATE and _taken(membership, member):
        return status.peer_url_exists()
    if kind is Kind.PROMOTE and not known.learner:
        return status.member_not_learner()
    return None


def _taken(membership: Membership, member: Member) -> bool:
    others = {url for other in membership.members if other.id != member.id for url in other.peer_urls}
    return not others.isdisjoint(member.peer_urls)


def applied(membership: Membership, conf: ConfChange) -> tuple[Membership, Error | None]:
    """What a committed change makes of the membership, or why it is refused; the same on every member."""
    change = decode_change(conf.context)
    if (why_not := refusal(membership, change)) is not None:
        return membership, why_not
    if conf != conf_change(membership, change):
        # The member's role has changed since this was proposed; carrying it out would change it back.
        return membership, status.unhealthy()
    kind, member = change
    known = membership.get(member.id)
    if kind is Kind.ADD:
        return membership.replaced(member), None
    assert known is not None
    if kind is Kind.REMOVE:
        return membership.without(member.id), None
    if kind is Kind.UPDATE:
        return membership.replaced(known._replace(peer_urls=member.peer_urls)), None
    if kind is Kind.PROMOTE:
        return membership.replaced(known._replace(learner=False)), None
    return membership.replaced(known._replace(name=member.name, client_urls=member.client_urls)), None
