"""
What a start finds, and what it makes of it before anything runs.

    meta in the directory      go on with it, whatever --initial-* say      (--force-new-cluster: as the only member)
    --initial-cluster of one   a new cluster of this member alone
    --initial-cluster of more  a new cluster: its log begins with the joining of every first member
    existing                   ask the others who is a member, and come in with an empty log

Refused, as by etcd: flags that contradict each other or the running members; a member that is known to have run before
and comes with an empty directory.

Invariants:
* The meta bytes are written last: a start that was cut short begins again.
* All first members write the same log, so who is elected first does not matter.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import NamedTuple

from fastkv.engine import ReplicatedEngine
from fastkv.errors import QuotaError
from fastkv.raft import ConfChange, Entry, EntryKind, batch_commands, bootstrap
from fastkv.raft.codec import decode_conf_change
from fastkv.server import identity as identities
from fastkv.server.cluster import membership as memberships
from fastkv.server.cluster import remote
from fastkv.server.cluster.membership import Kind, Member, MemberChange, Membership
from fastkv.server.config import Config, ConfigError
from fastkv.server.identity import FIRST_TERM, Identity, cluster_id, member_id
from fastkv.server.log import Log

TAKE_OVER_BYTES = 16 << 20


class Start(NamedTuple):
    """
    alone: this member is the whole cluster, and nothing in its log says otherwise. Then its store may hold no
    membership, if the library made it or a node before there were clusters; `settle` gives it one when it is needed.
    """

    identity: Identity
    membership: Membership
    alone: bool


def start(config: Config, engine: ReplicatedEngine, log: Log, tls: ssl.SSLContext | None) -> Start:
    """The identity and membership to start with, durable. ConfigError: not with these flags. tls: to ask others."""
    if meta := engine.read_meta():
        return _restart(config, engine, identities.decode(meta), log)
    own = _own_urls(config)
    if config.initial_cluster_state == "existing":
        identity = _join(config, own, tls)
        engine.write_meta(identities.encode(identity))
        return Start(identity, Membership(), alone=False)
    members = [
        Member(member_id(urls, config.initial_cluster_token), name, urls)
        for name, urls in config.initial_members.items()
    ]
    if len({member.id for member in members}) != len(members):
        raise ConfigError("member IDs have collided: two members have the same peer URLs", "fatal")
    identity = Identity(
        cluster_id([member.id for member in members]), member_id(own, config.initial_cluster_token), own, FIRST_TERM
    )
    alone = len(members) == 1
    if not alone:
        _refuse_known(config, identity, tls)
        if engine.applied_index > 0:
            text = "the data directory holds a store already; start it as the only member, then add the others"
            raise ConfigError(text, "fatal", data_dir=config.data_dir)
    if alone and engine.log_last > 0:
        membership = Membership(tuple(members))  # written by the library: see Start
    else:
        membership = _first_entries(engine, members, apply=alone)
    engine.write_meta(identities.encode(identity))
    return Start(identity, membership, alone)


def settle(engine: ReplicatedEngine, membership: Membership) -> Membership:
    """The membership that the store holds, given to it if it holds none. Writes a checkpoint then."""
    if engine.membership:
        return memberships.decode(engine.membership)
    membership = membership._replace(base=engine.applied_index)
    engine.set_membership(memberships.encode(membership))
    return membership


def _own_urls(config: Config) -> tuple[str, ...]:
    own = config.initial_members.get(config.name)
    if own is None:
        raise ConfigError(f'couldn\'t find local name "{config.name}" in the initial cluster configuration', "fatal")
    if own != config.peer_urls:
        raise ConfigError(
            f"--initial-cluster has {','.join(own)} but missing from "
            f"--initial-advertise-peer-urls={','.join(config.peer_urls)}",
            "fatal",
        )
    return own


def _others(config: Config) -> list[str]:
    return sorted(url for name, urls in config.initial_members.items() if name != config.name for url in urls)


# -- new ------------------------------------------------------------------------------------------------------
def _refuse_known(config: Config, identity: Identity, tls: ssl.SSLContext | None) -> None:
    """Whoever has lost its log has lost its promises too, and must not come back as itself."""
    found, _ = remote.fetch(_others(config), tls)
    if found is None:
        return
    known = next((member for member in found.members if member.id == identity.member_id), None)
    if known is not None and known.client_urls:
        raise ConfigError(f"member {identity.member_id:x} has already been bootstrapped", "fatal")


def _first_entries(engine: ReplicatedEngine, members: Sequence[Member], *, apply: bool) -> Membership:
    """Write the joining of all first members; apply: and carry it out. The membership as of what is applied."""
    changes: list[ConfChange] = []
    after = Membership()
    for member in sorted(members):
        change = memberships.conf_change(after, MemberChange(Kind.ADD, member))
        changes.append(change)
        after, why_not = memberships.applied(after, change)
        if why_not is not None:
            raise ConfigError(f"error setting up initial cluster: {why_not}", "fatal")
    hard_state, entries = bootstrap(changes)
    engine.log_append(entries, hard_state)
    engine.log_sync()
    if not apply:
        return Membership()
    engine.apply(entries, memberships.encode(after))
    return after


# -- existing -------------------------------------------------------------------------------------------------
def _join(config: Config, own: tuple[str, ...], tls: ssl.SSLContext | None) -> Identity:
    found, why_not = remote.fetch(_others(config), tls)
    if found is None:
        raise ConfigError(f"cannot fetch cluster info from peer urls: {why_not}", "fatal")
    described = " ".join(str(list(member.peer_urls)) for member in found.members)
    flagged = sorted(config.initial_members.values())
    running = sorted((member.peer_urls, member.id) for member in found.members)
    if len(flagged) != len(running):
        raise ConfigError(f"error validating peerURLs {described}: member count is unequal", "fatal")
    for wanted, (urls, _) in zip(flagged, running, strict=True):
        if wanted != urls:
            reason = f"unmatched member while checking PeerURLs ({','.join(wanted)} is not {','.join(urls)})"
            raise ConfigError(f"error validating peerURLs {described}: {reason}", "fatal")
    id = next(id for urls, id in running if urls == own)
    remotes = tuple((member.id, member.peer_urls) for member in found.members if member.id != id)
    return Identity(found.cluster_id, id, own, 0, remotes=remotes)


# -- restart --------------------------------------------------------------------------------------------------
def _restart(config: Config, engine: ReplicatedEngine, known: Identity, log: Log) -> Start:
    membership = memberships.decode(engine.membership)
    if not membership.members and not known.remotes and engine.applied_index == engine.log_last:
        membership = Membership((Member(known.member_id, config.name, known.peer_urls),))
    if config.force_new_cluster:
        membership = _take_over(engine, known, membership, config)
    only = membership.conf().voters == (known.member_id,) and len(membership.members) == 1
    alone = only and engine.applied_index == engine.log_last
    term = max(known.term + 1, engine.log_state()[0]) if alone else engine.log_state()[0]
    identity = known._replace(session=known.session + 1, term=term)
    try:
        engine.write_meta(identities.encode(identity))
    except QuotaError as full:
        if not alone:
            raise
        # The only member's term orders nothing: what is there can be read all the same.
        log.error("the disk is full; the term stays as it was, reads go on", error=str(full))
        identity = known
    return Start(identity, membership, alone)


def _take_over(engine: ReplicatedEngine, identity: Identity, membership: Membership, config: Config) -> Membership:
    """
    Be the only member from here on, with all that the log holds: of what may not have been committed nobody was told
    that it was not, and what was acknowledged is never cut.
    """
    term, _, _ = engine.log_state()
    last = engine.log_last
    while engine.applied_index < last:
        for term_of, index, kind, data in engine.log_entries(engine.applied_index + 1, last + 1, TAKE_OVER_BYTES):
            entry = Entry(term_of, index, EntryKind(kind), data)
            changed = None
            if entry.kind is EntryKind.CONF_CHANGE:
                membership, _ = memberships.applied(membership, decode_conf_change(batch_commands(data)))
                changed = memberships.encode(membership)
            engine.apply([entry], changed)
    engine.log_append([], (term, identity.member_id, last))
    engine.log_sync()
    own = membership.get(identity.member_id) or Member(identity.member_id, config.name, identity.peer_urls)
    gone = {member.id for member in membership.members} - {own.id}
    membership = Membership((own._replace(learner=False),), membership.removed - {own.id} | gone, last)
    engine.set_membership(memberships.encode(membership))
    return membership
