"""
The node's own errors, one row each, and how any fastkv error becomes a gRPC status.

The store's errors and their texts are in fastkv.errors; here are those that only a server has (etcd's
api/v3rpc/rpctypes).
"""

from __future__ import annotations

from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

from fastkv.errors import Error, GrpcCode

STATUS: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class RpcError(Error):
    """An error that is only met over the wire."""

    def __init__(self, code: GrpcCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def stopped() -> RpcError:
    return RpcError(GrpcCode.UNAVAILABLE, "etcdserver: server stopped")


def timed_out() -> RpcError:
    return RpcError(GrpcCode.UNAVAILABLE, "etcdserver: request timed out")


def too_large(size_bytes: int, limit_bytes: int) -> RpcError:
    text = f"grpc: received message larger than max ({size_bytes} vs. {limit_bytes})"
    return RpcError(GrpcCode.RESOURCE_EXHAUSTED, text)


def unknown_method(service: str, method: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"unknown method {method} for service {service}")


def unknown_service(service: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"unknown service {service}")


def absent_method(service: str, method: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"fastkv: {service}/{method} is not there yet")


async def abort(context: ServicerContext, error: Error) -> NoReturn:
    """End the call with the error's code and exact text."""
    await context.abort(STATUS[error.code], str(error))
    raise AssertionError("abort returned")
