"""
The node's own errors, one row each, and how any fastkv error becomes a gRPC status.

The store's errors and their texts are in fastkv.errors; here are those that only a server has (etcd's
api/v3rpc/rpctypes).
"""

from __future__ import annotations

import json

from fastkv.errors import Code, Error, GrpcCode
from fastkv.rpc.wire import Message


class RpcError(Error):
    """An error that is only met over the wire."""

    def __init__(self, code: GrpcCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def stopped() -> RpcError:
    return RpcError(GrpcCode.UNAVAILABLE, "etcdserver: server stopped")


def timed_out() -> RpcError:
    return RpcError(GrpcCode.UNAVAILABLE, "etcdserver: request timed out")


def too_many_requests() -> RpcError:
    return RpcError(GrpcCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


def malformed(is_stream: bool, reason: str = "proto: cannot parse invalid wire-format data") -> RpcError:
    """A request that is no message of its type, in grpc-go's words."""
    what = "failed to unmarshal the received message" if is_stream else "error unmarshalling request"
    return RpcError(GrpcCode.INTERNAL, f"grpc: {what}: {reason}")


def text_field(message: Message, field: int, is_stream: bool = False) -> str:
    """A string field; what is not UTF-8 makes the message malformed."""
    try:
        return message.data(field).decode()
    except UnicodeDecodeError:
        raise malformed(is_stream, "string field contains invalid UTF-8") from None


def too_large(size_bytes: int, limit_bytes: int) -> RpcError:
    text = f"grpc: received message larger than max ({size_bytes} vs. {limit_bytes})"
    return RpcError(GrpcCode.RESOURCE_EXHAUSTED, text)


def unknown_method(service: str, method: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"unknown method {method} for service {service}")


def unknown_service(service: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"unknown service {service}")


def malformed_name(path: str) -> RpcError:
    """Of a path that is not /service/method."""
    return RpcError(GrpcCode.UNIMPLEMENTED, f"malformed method name: {json.dumps(path, ensure_ascii=False)}")


def absent_method(service: str, method: str) -> RpcError:
    return RpcError(GrpcCode.UNIMPLEMENTED, f"fastkv: {service}/{method} is not there yet")


def as_seen(error: Error, is_stream: bool) -> Error:
    """The error in the words that a client gets to see."""
    return malformed(is_stream) if error.number == Code.MALFORMED else error
