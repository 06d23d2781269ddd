"""
What running members say of themselves over HTTP, asked by one that starts: who is a member, and of which cluster.

    GET <peer URL>/members    JSON, as etcd's; the cluster's id in the header X-Etcd-Cluster-ID

Blocks; for the start only, before anything runs.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable
from typing import NamedTuple

from fastkv.server.cluster.membership import Member
from fastkv.server.flags import split_url

TIMEOUT_S = 2.0
RESPONSE_BYTES_MAX = 1 << 20
CLUSTER_ID_HEADER = "X-Etcd-Cluster-ID"


class Remote(NamedTuple):
    """A cluster as one of its members tells it."""

    cluster_id: int
    members: tuple[Member, ...]


def members_json(members: Iterable[Member]) -> bytes:
    """What GET /members answers."""
    rows = []
    for member in members:
        row: dict[str, object] = {"id": member.id, "peerURLs": member.peer_urls}
        if member.name:
            row["name"] = member.name
        if member.client_urls:
            row["clientURLs"] = member.client_urls
        if member.learner:
            row["isLearner"] = True
        rows.append(row)
    return json.dumps(rows, separators=(",", ":")).encode() + b"\n"


def fetch(urls: Iterable[str], tls: ssl.SSLContext | None = None) -> tuple[Remote | None, str]:
    """The first answer, and why there is none otherwise. tls: for https URLs."""
    why_not = "there is nobody to ask"
    for url in urls:
        try:
            return _fetch(url, tls), ""
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as reason:
            why_not = f"{url}: {reason}"
    return None, why_not


def _fetch(url: str, tls: ssl.SSLContext | None) -> Remote:
    parts = split_url(url)
    host, _, port = parts.netloc.rpartition(":")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S, context=tls)
    else:
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/members")
        response = connection.getresponse()
        body = response.read(RESPONSE_BYTES_MAX)
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        cluster_id = int(response.headers.get(CLUSTER_ID_HEADER, ""), 16)
        return Remote(cluster_id, tuple(sorted(_member(row) for row in json.loads(body))))
    finally:
        connection.close()


def _member(row: dict[str, object]) -> Member:
    id, name = row["id"], row.get("name", "")
    if not isinstance(id, int) or not isinstance(name, str):
        raise ValueError(f"{row} is no member")
    return Member(id, name, _urls(row["peerURLs"]), _urls(row.get("clientURLs", [])), bool(row.get("isLearner")))


def _urls(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise ValueError(f"{value} are no URLs")
    return tuple(sorted(value))
