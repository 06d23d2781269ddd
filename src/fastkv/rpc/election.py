"""
v3electionpb.Election: the owner of a name has a value, which others may read and follow.

    Campaign --> LeaderKey {name, key, rev, lease} --> Proclaim a new value ... Resign

Left out, as in etcd: Campaign does not end early when the caller's own lease ends before the leader's.
"""

from __future__ import annotations

from fastkv import messages
from fastkv.errors import TABLE, Code, GrpcCode
from fastkv.keys import prefix_end
from fastkv.rpc import kv
from fastkv.rpc.calls import Context
from fastkv.rpc.contender import (
    DELETE,
    PUT,
    Contender,
    call,
    first,
    headed,
    if_created,
    kvs_of,
    revision_of,
    session,
)
from fastkv.rpc.status import RpcError
from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from fastkv.server.node import Node
from fastkv.server.watching import Seen, Watching

MISSING_LEADER = '"leader" field must be provided'
NOT_LEADER = "election: not leader"
NO_LEADER = "election: no leader"


async def campaign(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    name, value = asked.data(1), asked.data(3)
    contender = Contender(node, name + b"/", await session(node, asked.number(2)))
    response = await contender.enter(value)
    if not response.unsigned(2) and Message(kvs_of(response, 0)[0]).data(5) != value:
        try:
            await _put(node, contender.key, contender.revision, value, contender.lease)
        except RpcError:
            await contender.leave()
            raise
    if await contender.wait() is None:
        gone = contender.lease not in node.lessor
        raise RpcError(GrpcCode.UNKNOWN, TABLE[Code.LEASE_NOT_FOUND][1] if gone else NOT_LEADER)
    leader = bytes_field(1, name) + bytes_field(2, contender.key)
    leader += int_field(3, contender.revision) + int_field(4, contender.lease)
    return headed(response, message_field(2, leader))


async def _put(node: Node, key: bytes, revision: int, value: bytes, lease: int) -> Message:
    put = messages.request_op(PUT, messages.put_request(key, value, lease))
    response = await call(kv.txn, node, if_created(key, revision, [put]))
    if not response.unsigned(2):
        raise RpcError(GrpcCode.UNKNOWN, NOT_LEADER)
    return response


async def _leader_key(node: Node, request: Message) -> tuple[bytes, int, int]:
    """(key, create revision, lease) of the LeaderKey that the caller must show."""
    if 1 not in request:
        raise RpcError(GrpcCode.UNKNOWN, MISSING_LEADER)
    leader = Message(request.data(1))
    return leader.data(2), leader.number(3), await session(node, leader.number(4))


async def proclaim(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    key, revision, lease = await _leader_key(node, asked)
    return headed(await _put(node, key, revision, asked.data(2), lease))


async def resign(node: Node, request: bytes) -> bytes:
    key, revision, _ = await _leader_key(node, Message(request))
    delete = messages.request_op(DELETE, messages.delete_request(key))
    return headed(await call(kv.txn, node, if_created(key, revision, [delete])))


async def leader(node: Node, request: bytes) -> bytes:
    response = await call(kv.range_, node, first(Message(request).data(1) + b"/"))
    if not response.all(2):
        raise RpcError(GrpcCode.UNKNOWN, NO_LEADER)
    return headed(response, message_field(2, response.all(2)[0]))


async def observe(node: Node, request: bytes, context: Context) -> None:
    """The leader's value, every change of it, and every leader behind him; what was before the call is not told."""
    prefix = Message(request).data(1) + b"/"
    while True:
        response = await call(kv.range_, node, first(prefix))
        if found := response.all(2):
            seen = Seen(False, found[0], revision_of(response))
        else:
            seen = await _first_put(node, prefix, revision_of(response))
        await context.write(_told(node, seen))
        await _follow(node, seen, context)


async def _first_put(node: Node, prefix: bytes, revision: int) -> Seen:
    async with Watching(node, prefix, prefix_end(prefix), revision + 1) as watching:
        while True:
            for seen in await watching.events():
                if not seen.is_delete:
                    # The change may stand in the middle of what was taken: from it on nothing may be missed.
                    return seen._replace(revision=Message(seen.kv).number(3))


async def _follow(node: Node, leader: Seen, context: Context) -> None:
    """Tell every value of this leader, until the key is gone or compaction has passed it."""
    async with Watching(node, Message(leader.kv).data(1), b"", leader.revision + 1) as watching:
        while events := await watching.events():
            for seen in events:
                if seen.is_delete:
                    return
                await context.write(_told(node, seen))


def _told(node: Node, seen: Seen) -> bytes:
    return message_field(1, node.header(seen.revision)) + message_field(2, seen.kv)


UNARY = {"Campaign": campaign, "Proclaim": proclaim, "Leader": leader, "Resign": resign}
SERVER_STREAMING = {"Observe": observe}
