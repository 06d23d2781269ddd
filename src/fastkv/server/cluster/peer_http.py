"""
What the peer port answers over HTTP: etcd's endpoints for tools and for members that want to join.

    /version /members /members/promote/<id> /health /livez /readyz /raft/probing /downgrade/enabled

Texts and codes are etcd's. Thread safety: the event loop's thread.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING

from fastkv.errors import Error, GrpcCode
from fastkv.server.cluster.remote import members_json
from fastkv.server.http import answer as client_answer

if TYPE_CHECKING:
    from fastkv.server.node import Node

Answer = tuple[int, str, bytes]

TEXT, JSON = "text/plain; charset=utf-8", "application/json"
NOT_ALLOWED = 405, TEXT, b"Method Not Allowed\n"
NOT_FOUND = 404, TEXT, b"404 page not found\n"
PROMOTE = "/members/promote/"
FAILURES = {GrpcCode.NOT_FOUND: 404, GrpcCode.FAILED_PRECONDITION: 412}


class PeerHttp:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def answer(self, method: str, target: str, body: bytes) -> Answer:
        path = target.partition("?")[0]
        if path == "/members":
            return await self._members() if method == "GET" else NOT_ALLOWED
        if path.startswith(PROMOTE):
            return await self._promote(path.removeprefix(PROMOTE)) if method == "POST" else NOT_ALLOWED
        if path == "/raft/probing":
            now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
            return 200, JSON, json.dumps({"OK": True, "Now": now}, separators=(",", ":")).encode()
        if path == "/downgrade/enabled":
            return 200, JSON, b"false"
        found = await client_answer(self._node, method, target)
        return found.status, found.content_type, found.body

    async def _members(self) -> Answer:
        cluster = self._node.cluster
        if cluster is None:
            return NOT_FOUND
        return 200, JSON, members_json(cluster.membership.members)

    async def _promote(self, id: str) -> Answer:
        cluster = self._node.cluster
        if cluster is None or not id.isdigit():
            return NOT_FOUND
        try:
            membership = await cluster.promote(int(id))
        except Error as error:
            return FAILURES.get(error.code, 500), TEXT, f"{error}\n".encode()
        return 200, JSON, members_json(membership.members)
