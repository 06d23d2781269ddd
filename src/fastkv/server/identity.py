"""
Who this member is: ids, term and name, and where they are kept.

    member id  := first 8 bytes of SHA-1(peer URLs ascending, joined, then the token), big-endian
    cluster id := first 8 bytes of SHA-1(all member ids ascending, 8 bytes each), big-endian

The ids are made once, from the first start's flags, and kept as JSON in the engine's meta bytes; a later start with
other flags keeps them, as etcd does. The term rises by one at every start: each is an election that this only member
wins.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from fastkv.errors import Code, from_code
from fastkv.server.config import Config, ConfigError, parse_cluster

FIRST_TERM = 2  # A fresh etcd bootstraps at 1 and wins its first election at 2.


class Identity(NamedTuple):
    cluster_id: int
    member_id: int
    peer_urls: tuple[str, ...]
    term: int


def member_id(peer_urls: tuple[str, ...], token: str) -> int:
    return _first_8_bytes("".join(sorted(peer_urls)) + token)


def cluster_id(member_ids: list[int]) -> int:
    return _first_8_bytes(b"".join(member.to_bytes(8, "big") for member in sorted(member_ids)))


def _first_8_bytes(data: str | bytes) -> int:
    digest = hashlib.sha1(data.encode() if isinstance(data, str) else data, usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big")


def bootstrap(config: Config) -> Identity:
    """The identity of a first start; ConfigError if the flags contradict each other."""
    if config.initial_cluster_state == "existing":
        raise ConfigError(
            "--initial-cluster-state=existing: fastkv cannot join a cluster yet; start a new one", "fatal"
        )
    members = parse_cluster(config.initial_cluster)
    own = members.get(config.name)
    if own is None:
        raise ConfigError(f'couldn\'t find local name "{config.name}" in the initial cluster configuration', "fatal")
    if own != config.peer_urls:
        raise ConfigError(
            f"--initial-cluster has {','.join(own)} but missing from "
            f"--initial-advertise-peer-urls={','.join(config.peer_urls)}",
            "fatal",
        )
    member = member_id(own, config.initial_cluster_token)
    return Identity(cluster_id([member]), member, own, FIRST_TERM)


def encode(identity: Identity) -> bytes:
    return json.dumps(
        {
            "cluster_id": f"{identity.cluster_id:x}",
            "member_id": f"{identity.member_id:x}",
            "peer_urls": identity.peer_urls,
            "term": identity.term,
        }
    ).encode()


def decode(meta: bytes) -> Identity:
    """What `encode` wrote; CorruptError for anything else."""
    try:
        fields = json.loads(meta)
        identity = Identity(
            int(fields["cluster_id"], 16), int(fields["member_id"], 16), tuple(fields["peer_urls"]), int(fields["term"])
        )
        ids_and_term = (identity.cluster_id >> 1, identity.member_id >> 1, identity.term)
        numbers_fit = all(0 <= number < 1 << 63 for number in ids_and_term)
        if not numbers_fit or not all(isinstance(url, str) for url in identity.peer_urls):
            raise ValueError("a number or URL that no member has")
        return identity
    except (ValueError, TypeError, KeyError, RecursionError) as reason:
        raise from_code(
            Code.CORRUPT, f"fastkv: the member's identity in the data directory cannot be read: {reason!r}"
        ) from None
