"""
From a gRPC call to one of our functions and back: size limit, errors, slow calls.

    unary            async (node, request) -> response
    server streaming async (node, request, context)
    bidirectional    async (node, context), reading with `read`

Messages are bytes both ways: no generated class is involved. A function raises fastkv's errors; anything else that it
raises is a bug, which grpc reports to the client as UNKNOWN and to the log with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
from grpc.aio import EOF, ServicerContext

from fastkv.errors import Error
from fastkv.rpc.status import abort, too_large
from fastkv.server.node import Node

Context = ServicerContext
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
    return None if request is EOF else check_size(node, request)


def unary_handler(node: Node, name: str, function: Unary) -> grpc.RpcMethodHandler:
    async def call(request: bytes, context: Context) -> bytes:
        began = node.now()
        try:
            return await function(node, check_size(node, request))
        except Error as error:
            await abort(context, error)
        finally:
            took_s = node.now() - began
            if took_s > node.config.warning_request_s > 0:
                node.log.warn(
                    "request stats", method=name, time_spent=f"{took_s * 1000:.3f}ms", request_size=len(request)
                )

    return grpc.unary_unary_rpc_method_handler(call)


def server_streaming_handler(node: Node, function: ServerStreaming) -> grpc.RpcMethodHandler:
    async def call(request: bytes, context: Context) -> None:
        try:
            await function(node, check_size(node, request), context)
        except Error as error:
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(call)


def bidirectional_handler(node: Node, function: Bidirectional) -> grpc.RpcMethodHandler:
    async def call(_: object, context: Context) -> None:
        try:
            await function(node, context)
        except Error as error:
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)


def refusing_handler(error: Error) -> grpc.RpcMethodHandler:
    """Answers any call, whatever its shape, with the error."""

    async def call(_: object, context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)
