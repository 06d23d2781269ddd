"""
The grpcio front end's side of a call: our functions as its handlers, our errors as its status.

An unknown method and an unknown service each get their own UNIMPLEMENTED text, those of a Go server, which clients
match.
"""

from __future__ import annotations

from typing import NoReturn

import grpc
from grpc.aio import EOF, ServicerContext

from fastkv.errors import Error
from fastkv.rpc.calls import Bidirectional, ServerStreaming, Unary, answer, check_learner, check_size
from fastkv.rpc.methods import ABSENT, BIDIRECTIONAL, SERVER_STREAMING, UNARY
from fastkv.rpc.status import absent_method, as_seen, malformed_name, unknown_method, unknown_service
from fastkv.server.node import Node

Handler = grpc.RpcMethodHandler
STATUS: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioContext:
    """calls.Context over grpcio's."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context
        self.write = context.write

    async def read(self) -> bytes | None:
        message = await self._context.read()
        return None if message is EOF else message


async def abort(context: ServicerContext, error: Error, is_stream: bool = True) -> NoReturn:
    """End the call with the error's code and exact text."""
    seen = as_seen(error, is_stream)
    await context.abort(STATUS[seen.code], str(seen))
    raise AssertionError("abort returned")


def unary_handler(node: Node, name: str, function: Unary) -> Handler:
    async def call(request: bytes, context: ServicerContext) -> bytes:
        try:
            return await answer(node, name, function, request)
        except Error as error:
            await abort(context, error, is_stream=False)

    return grpc.unary_unary_rpc_method_handler(call)


def server_streaming_handler(node: Node, name: str, function: ServerStreaming) -> Handler:
    async def call(request: bytes, context: ServicerContext) -> None:
        try:
            check_learner(node, name, b"")
            await function(node, check_size(node, request), GrpcioContext(context))
        except Error as error:
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(call)


def bidirectional_handler(node: Node, name: str, function: Bidirectional) -> Handler:
    async def call(_: object, context: ServicerContext) -> None:
        try:
            check_learner(node, name, b"")
            await function(node, GrpcioContext(context))
        except Error as error:
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)


def refusing_handler(error: Error) -> Handler:
    """Answers any call, whatever its shape, with the error."""

    async def call(_: object, context: ServicerContext) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)


class Services(grpc.GenericRpcHandler):
    """Every method of the node's API."""

    def __init__(self, node: Node) -> None:
        self._handlers: dict[str, Handler] = {}
        for service, unary in UNARY.items():
            for method, function in unary.items():
                self._handlers[f"/{service}/{method}"] = unary_handler(node, f"/{service}/{method}", function)
        for service, streaming in SERVER_STREAMING.items():
            for method, stream in streaming.items():
                self._handlers[f"/{service}/{method}"] = server_streaming_handler(node, f"/{service}/{method}", stream)
        for service, bidirectional in BIDIRECTIONAL.items():
            for method, both in bidirectional.items():
                self._handlers[f"/{service}/{method}"] = bidirectional_handler(node, f"/{service}/{method}", both)
        for service, absent in ABSENT.items():
            for method in absent:
                self._handlers[f"/{service}/{method}"] = refusing_handler(absent_method(service, method))
        self._services = {path.split("/")[1] for path in self._handlers}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        if handler := self._handlers.get(handler_call_details.method):
            return handler
        path: str = handler_call_details.method
        service, slash, method = path.removeprefix("/").rpartition("/")
        if not slash:
            return refusing_handler(malformed_name(path))
        known = service in self._services
        return refusing_handler(unknown_method(service, method) if known else unknown_service(service))
