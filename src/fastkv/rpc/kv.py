"""
etcdserverpb.KV: the client's bytes go to the engine and the engine's bytes to the client. A read that is not
serializable is confirmed first (of a member alone it needs no confirmation).

A read of one key runs on the event loop. A range is read in a worker thread, so that it delays nobody: even one with a
small limit counts every key of its interval.
"""

from __future__ import annotations

from fastkv.engine import COMPACTION, DELETE_RANGE, PUT, TXN
from fastkv.rpc.calls import SERIALIZABLE, Context
from fastkv.rpc.wire import Message, message_field
from fastkv.server.node import Node

RANGE_OP_TAG = b"\x0a"  # RequestOp.request_range
# The engine keeps its place in fields 1000 and 1001 of the request for the next chunk. A client that sends them is not
# believed: of a field given twice the last one counts.
CHUNK_STATE_CLEARED = b"\xc0\x3e\x00\xc8\x3e\x00"


def _is_short(request: Message) -> bool:
    """Whether the request is answered from one key, whatever the store holds: without a range_end."""
    return not request.data(2)


async def range_(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    await _confirm(node, asked)
    if _is_short(asked):
        return node.engine.range(request)
    return await node.work(node.engine.range, request)


async def _confirm(node: Node, asked: Message) -> None:
    if not asked.unsigned(SERIALIZABLE):
        await node.confirm_read()


async def range_stream(node: Node, request: bytes, context: Context) -> None:
    # Refuses what is no message, which with more behind it might be one.
    await _confirm(node, Message(request))
    request += CHUNK_STATE_CLEARED
    while True:
        response, request = await node.work(node.engine.range_chunk, request, node.config.max_request_bytes)
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
    asked = Message(request)
    if not _only_reads(asked):
        return await node.execute(TXN, request)
    if not _is_serializable(asked):
        await node.confirm_read()
    response = await node.work(node.engine.read_txn, request)
    return await node.execute(TXN, request) if response is None else response


def _is_serializable(txn: Message) -> bool:
    """Whether all of its ranges, which are all that it has, allow an old state; as in etcd without a compare."""
    ranges = [Message(Message(operation).data(1)) for operation in (*txn.all(2), *txn.all(3))]
    return all(one.unsigned(SERIALIZABLE) for one in ranges)


async def compact(node: Node, request: bytes) -> bytes:
    response = await node.execute(COMPACTION, request)
    if Message(request).unsigned(2):
        await node.wait_compaction()
    return response


UNARY = {"Range": range_, "Put": put, "DeleteRange": delete_range, "Txn": txn, "Compact": compact}
SERVER_STREAMING = {"RangeStream": range_stream}
