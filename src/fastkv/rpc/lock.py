"""v3lockpb.Lock: a mutex by name, held as long as its key is there: until Unlock or the end of the lease."""

from __future__ import annotations

from fastkv import messages
from fastkv.errors import GrpcCode
from fastkv.rpc import kv
from fastkv.rpc.contender import RANGE, Contender, call, first, headed, kvs_of, session
from fastkv.rpc.status import RpcError
from fastkv.rpc.wire import Message, bytes_field, message_field
from fastkv.server.node import Node


async def lock(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    prefix = asked.data(1) + b"/"
    contender = Contender(node, prefix, await session(node, asked.number(2)))
    response = await contender.enter(b"", messages.request_op(RANGE, first(prefix)))
    owners = [Message(owner).number(2) for owner in kvs_of(response, 1)]
    if owners == [contender.revision]:
        return headed(response, bytes_field(2, contender.key))
    header = await contender.wait()
    if header is None:
        raise RpcError(GrpcCode.UNKNOWN, "mutex: session is expired")
    return message_field(1, header) + bytes_field(2, contender.key)


async def unlock(node: Node, request: bytes) -> bytes:
    key = Message(request).data(1)
    return headed(await call(kv.delete_range, node, messages.delete_request(key)))


UNARY = {"Lock": lock, "Unlock": unlock}
