"""etcdserverpb.Cluster: who is a member, and changes of that. Headers carry no revision, as in etcd."""

from __future__ import annotations

from collections.abc import Iterable

from fastkv.rpc.status import malformed, member_not_found, member_not_learner, not_enough_started
from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from fastkv.server.cluster.membership import Member
from fastkv.server.node import Node


def _member(member: Member) -> bytes:
    return (
        int_field(1, member.id)
        + bytes_field(2, member.name.encode())
        + b"".join(message_field(3, url.encode()) for url in member.peer_urls)
        + b"".join(message_field(4, url.encode()) for url in member.client_urls)
        + int_field(5, member.learner)
    )


def _response(node: Node, members: Iterable[Member], field: int = 2) -> bytes:
    header = message_field(1, node.header(revision=0))
    return header + b"".join(message_field(field, _member(member)) for member in members)


def _urls(request: Message, field: int) -> list[str]:
    try:
        return [url.decode() for url in request.all(field)]
    except UnicodeDecodeError:
        raise malformed(is_stream=False, reason="string field contains invalid UTF-8") from None


def _of_one_alone(node: Node, id: int) -> bool:
    """Whether it is the id of a member that is alone. What is refused anyway shall not make it drive Raft."""
    if node.cluster is None and id != node.identity.member_id:
        raise member_not_found()
    return node.cluster is None


async def member_list(node: Node, request: bytes) -> bytes:
    if Message(request).unsigned(1):
        await node.confirm_read()
    return _response(node, node.members())


async def member_add(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    cluster = await node.several()
    member, membership = await cluster.changes.add(_urls(asked, 1), bool(asked.unsigned(2)))
    header = message_field(1, node.header(revision=0))
    return (
        header
        + message_field(2, _member(member))
        + b"".join(message_field(3, _member(one)) for one in membership.members)
    )


async def member_remove(node: Node, request: bytes) -> bytes:
    id = Message(request).unsigned(1)
    if _of_one_alone(node, id):
        raise not_enough_started()
    membership = await (await node.several()).changes.remove(id)
    return _response(node, membership.members)


async def member_update(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    _of_one_alone(node, asked.unsigned(1))
    membership = await (await node.several()).changes.update(asked.unsigned(1), _urls(asked, 2))
    return _response(node, membership.members)


async def member_promote(node: Node, request: bytes) -> bytes:
    id = Message(request).unsigned(1)
    if _of_one_alone(node, id):
        raise member_not_learner()
    membership = await (await node.several()).promote(id)
    return _response(node, membership.members)


UNARY = {
    "MemberList": member_list,
    "MemberAdd": member_add,
    "MemberRemove": member_remove,
    "MemberUpdate": member_update,
    "MemberPromote": member_promote,
}
