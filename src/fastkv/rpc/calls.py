"""
What a function that answers a method looks like, whichever front end its call came through.

    unary            async (node, request) -> response
    server streaming async (node, request, context)
    bidirectional    async (node, context), reading with `read`

Messages are bytes both ways: no generated class is involved. A function raises fastkv's errors; anything else that it
raises is a bug, which the client sees as UNKNOWN and the log with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastkv.rpc.status import too_large, unsupported_for_learner
from fastkv.rpc.wire import Message
from fastkv.server.node import Node


class Context(Protocol):
    """A streaming call."""

    async def read(self) -> bytes | None:
        """The next message of the client, None behind its last one."""

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the transport would take the next one."""


RANGE, SERIALIZABLE = "/etcdserverpb.KV/Range", 7  # the method; the field of its request
LEARNERS = ("/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot", "/grpc.health.v1.Health/Check")

Unary = Callable[[Node, bytes], Awaitable[bytes]]
ServerStreaming = Callable[[Node, bytes, Context], Awaitable[None]]
Bidirectional = Callable[[Node, Context], Awaitable[None]]


def check_size(node: Node, request: bytes) -> bytes:
    """The request, if it is not larger than etcd would receive."""
    if len(request) > node.config.receive_bytes_max:
        raise too_large(len(request), node.config.receive_bytes_max)
    return request


async def read(node: Node, context: Context) -> bytes | None:
    """The next request of a stream, None when the client has sent its last."""
    request = await context.read()
    return None if request is None else check_size(node, request)


def check_learner(node: Node, name: str, request: bytes) -> None:
    """A learner answers what needs no quorum and promises nothing: as etcd, Status and serializable ranges."""
    if not node.is_learner or name in LEARNERS:
        return
    if name != RANGE or not Message(request).unsigned(SERIALIZABLE):
        raise unsupported_for_learner()


async def answer(node: Node, name: str, function: Unary, request: bytes) -> bytes:
    """What a unary method answers; a slow one is logged."""
    began = node.now()
    try:
        check_learner(node, name, check_size(node, request))
        return await function(node, request)
    finally:
        took_s = node.now() - began
        if took_s > node.config.warning_request_s > 0:
            node.log.warn("request stats", method=name, time_spent=f"{took_s * 1000:.3f}ms", request_size=len(request))
