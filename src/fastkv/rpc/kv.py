"""
etcdserverpb.KV: the client's bytes go to the engine and the engine's bytes to the client.

Reads run on the event loop when they are sure to be short, otherwise in a worker thread, so that a list of a whole
keyspace delays nobody.
"""

from __future__ import annotations

import asyncio

from fastkv.engine import COMPACTION, DELETE_RANGE, PUT, TXN
from fastkv.rpc.calls import Context
from fastkv.rpc.wire import Message, message_field
from fastkv.server.node import Node

KEYS_INLINE_MAX = 64
RANGE_OP_TAG = b"\x0a"  # RequestOp.request_range


def _is_short(request: Message) -> bool:
    """Whether the request reads few keys, whatever the store holds: one key, or a limit without sorting or filters."""
    if not request.data(2):
        return True
    reorders = any(request.unsigned(field) for field in (5, 6, 10, 11, 12, 13))
    return not reorders and 0 < request.number(3) <= KEYS_INLINE_MAX and not request.unsigned(9)


async def range_(node: Node, request: bytes) -> bytes:
    if _is_short(Message(request)):
        return node.engine.range(request)
    return await asyncio.to_thread(node.engine.range, request)


async def range_stream(node: Node, request: bytes, context: Context) -> None:
    while True:
        response, request = await asyncio.to_thread(node.engine.range_chunk, request, node.config.max_request_bytes)
        await context.write(message_field(1, response))
        if not request:
            return


async def put(node: Node, request: bytes) -> bytes:
    return await node.execute(PUT, request)


async def delete_range(node: Node, request: bytes) -> bytes:
    return await node.execute(DELETE_RANGE, request)


def _only_reads(request: Message) -> bool:
    """Whether every operation looks like a range; the engine has the last word."""
    return all(operation.startswith(RANGE_OP_TAG) for operation in (*request.all(2), *request.all(3)))


async def txn(node: Node, request: bytes) -> bytes:
    """One that only reads needs no log; like a range it may be long."""
    response = await asyncio.to_thread(node.engine.read_txn, request) if _only_reads(Message(request)) else None
    return await node.execute(TXN, request) if response is None else response


async def compact(node: Node, request: bytes) -> bytes:
    response = await node.execute(COMPACTION, request)
    if Message(request).unsigned(2):
        await node.wait_compaction()
    return response


UNARY = {"Range": range_, "Put": put, "DeleteRange": delete_range, "Txn": txn, "Compact": compact}
SERVER_STREAMING = {"RangeStream": range_stream}
