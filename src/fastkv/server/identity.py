"""
Who this member is: ids, term and name, and where they are kept.

    member id  := first 8 bytes of SHA-1(peer URLs ascending, joined, then the token), big-endian
    cluster id := first 8 bytes of SHA-1(all member ids ascending, 8 bytes each), big-endian

The ids are made once, at the first start, and kept as JSON in the engine's meta bytes; a later start with other flags
keeps them, as etcd does. The session counts the starts. The term of a member alone rises by one at every start: each is
an election that this only member wins; the term of a member of several is Raft's.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from fastkv.errors import Code, from_code

FIRST_TERM = 2  # A fresh etcd bootstraps at 1 and wins its first election at 2.


class Identity(NamedTuple):
    """remotes: (id, peer URLs) of those whom a joining member met; of use until the log says who is a member."""

    cluster_id: int
    member_id: int
    peer_urls: tuple[str, ...]
    term: int
    session: int = 1
    remotes: tuple[tuple[int, tuple[str, ...]], ...] = ()


def member_id(peer_urls: tuple[str, ...], token: str) -> int:
    return _first_8_bytes("".join(sorted(peer_urls)) + token)


def cluster_id(member_ids: list[int]) -> int:
    return _first_8_bytes(b"".join(member.to_bytes(8, "big") for member in sorted(member_ids)))


def _first_8_bytes(data: str | bytes) -> int:
    digest = hashlib.sha1(data.encode() if isinstance(data, str) else data, usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big")


def encode(identity: Identity) -> bytes:
    return json.dumps(
        {
            "cluster_id": f"{identity.cluster_id:x}",
            "member_id": f"{identity.member_id:x}",
            "peer_urls": identity.peer_urls,
            "term": identity.term,
            "session": identity.session,
            "remotes": [(f"{member:x}", urls) for member, urls in identity.remotes],
        }
    ).encode()


def decode(meta: bytes) -> Identity:
    """What `encode` wrote; CorruptError for anything else."""
    try:
        fields = json.loads(meta)
        identity = Identity(
            int(fields["cluster_id"], 16),
            int(fields["member_id"], 16),
            tuple(fields["peer_urls"]),
            int(fields["term"]),
            int(fields.get("session", fields["term"])),
            tuple((int(member, 16), tuple(urls)) for member, urls in fields.get("remotes", ())),
        )
        ids_and_term = (identity.cluster_id >> 1, identity.member_id >> 1, identity.term, identity.session)
        numbers_fit = all(0 <= number < 1 << 63 for number in ids_and_term)
        if not numbers_fit or not all(isinstance(url, str) for url in identity.peer_urls):
            raise ValueError("a number or URL that no member has")
        return identity
    except (ValueError, TypeError, KeyError, RecursionError) as reason:
        raise from_code(
            Code.CORRUPT, f"fastkv: the member's identity in the data directory cannot be read: {reason!r}"
        ) from None
