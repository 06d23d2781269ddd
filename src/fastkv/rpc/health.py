"""grpc.health.v1.Health: the service "" is SERVING from the first call that can be made until the node stops."""

from __future__ import annotations

from fastkv.errors import GrpcCode
from fastkv.rpc.calls import Context
from fastkv.rpc.status import RpcError, text_field
from fastkv.rpc.wire import Message, int_field, message_field
from fastkv.server.node import Node

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


async def check(node: Node, request: bytes) -> bytes:
    if text_field(Message(request), 1):
        raise RpcError(GrpcCode.NOT_FOUND, "unknown service")
    return int_field(1, NOT_SERVING if node.stopping.is_set() else SERVING)


async def list_(node: Node, request: bytes) -> bytes:
    Message(request)
    return message_field(1, message_field(1, b"") + message_field(2, int_field(1, SERVING)))


async def watch(node: Node, request: bytes, context: Context) -> None:
    known = not text_field(Message(request), 1, is_stream=True)
    await context.write(int_field(1, SERVING if known else SERVICE_UNKNOWN))
    await node.stopping.wait()
    if known:
        await context.write(int_field(1, NOT_SERVING))


UNARY = {"Check": check, "List": list_}
SERVER_STREAMING = {"Watch": watch}
