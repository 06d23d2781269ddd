"""etcdserverpb.Cluster of a cluster of one: who is there. Its headers carry no revision, as in etcd."""

from __future__ import annotations

from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from fastkv.server.node import Node


async def member_list(node: Node, request: bytes) -> bytes:
    Message(request)
    identity, config = node.identity, node.config
    member = int_field(1, identity.member_id) + bytes_field(2, config.name.encode())
    member += b"".join(message_field(3, url.encode()) for url in identity.peer_urls)
    member += b"".join(message_field(4, url.encode()) for url in config.advertise_client_urls)
    return message_field(1, node.header(revision=0)) + message_field(2, member)


UNARY = {"MemberList": member_list}
ABSENT = ("MemberAdd", "MemberRemove", "MemberUpdate", "MemberPromote")
