"""
What the grpcio front end counts of its calls: an interceptor around every handler. The native one counts in C++
(cpp/front/call_metrics.h), the same things at the same places.

Thread safety: none; one event loop owns it.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from fastkv.server.metrics import CALL_BOUNDS, CODES, MethodCounts, methods

BOUNDS_S = [float(bound) for bound in CALL_BOUNDS[:-1]]
UNKNOWN, CANCELED = 2, 1


class Counts:
    """Of one method."""

    def __init__(self) -> None:
        self.started = self.received = self.sent = 0
        self.handled = [0] * len(CODES)
        self.took = [0] * len(CALL_BOUNDS)
        self.took_s = 0.0

    def end(self, code: int, took_s: float) -> None:
        self.handled[code] += 1
        self.took[bisect_left(BOUNDS_S, took_s)] += 1
        self.took_s += took_s


class CallCounts(grpc.aio.ServerInterceptor):
    """Counts the calls of known methods."""

    def __init__(self) -> None:
        self._counts = {path: Counts() for path in methods()}
        self.received_bytes = self.sent_bytes = self.connections = self.connections_total = 0

    def methods(self) -> dict[str, MethodCounts]:
        return {
            path: MethodCounts(c.started, c.received, c.sent, tuple(c.handled), tuple(c.took), c.took_s)
            for path, c in self._counts.items()
        }

    def counters(self) -> dict[str, float]:
        return {
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "connections_open": self.connections,
            "connections_total": self.connections_total,
            "calls_open": sum(c.started - sum(c.handled) for c in self._counts.values()),
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        counts = self._counts.get(handler_call_details.method)
        if counts is None:
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_counted(counts, handler.unary_unary, one_request=True))
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_counted(counts, handler.unary_stream, one_request=True))
        return grpc.stream_stream_rpc_method_handler(_counted(counts, handler.stream_stream, one_request=False))


class _Context:
    """A call's context that counts what passes through it."""

    def __init__(self, context: Any, counts: Counts) -> None:
        self._context = context
        self._counts = counts
        self.code = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        if isinstance(message, bytes):
            self._counts.received += 1
        return message

    async def write(self, message: bytes) -> None:
        self._counts.sent += 1
        await self._context.write(message)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.code = code.value[0]
        await self._context.abort(code, details, trailing_metadata)


def _counted(counts: Counts, function: Callable[[Any, Any], Awaitable[Any]], one_request: bool) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        seen = _Context(context, counts)
        counts.started += 1
        counts.received += one_request
        began = time.perf_counter()
        code = UNKNOWN
        try:
            response = await function(request, seen)
            counts.sent += isinstance(response, bytes)
            code = 0
            return response
        except asyncio.CancelledError:
            code = CANCELED
            raise
        finally:
            counts.end(seen.code or code, time.perf_counter() - began)

    return call
