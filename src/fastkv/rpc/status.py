"""
The node's own errors, one row each, and how any fastkv error becomes a gRPC status.

The store's errors and their texts are in fastkv.errors; here are those that only a server has (etcd's
api/v3rpc/rpctypes).
"""

from __future__ import annotations

import json

from fastkv.errors import Code, Error, GrpcCode, from_code
from fastkv.rpc.wire import Message


class RpcError(Error):
    """An error that is only met over the wire."""

    def __init__(self, code: GrpcCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def stopped() -> Error:
    return from_code(Code.STOPPED)


def timed_out() -> Error:
    return from_code(Code.TIMED_OUT)


def too_many_requests() -> Error:
    return from_code(Code.TOO_MANY_REQUESTS)


# -- clusters -------------------------------------------------------------------------------------------------
def deadline_exceeded() -> Error:
    """What a write gets for which there was no leader all the while."""
    return from_code(Code.DEADLINE_EXCEEDED)


def timed_out_leader_failed() -> Error:
    return from_code(Code.TIMED_OUT_LEADER_FAILED)


def timed_out_connection_lost() -> Error:
    return from_code(Code.TIMED_OUT_DISCONNECTED)


def transfer_timed_out() -> RpcError:
    return RpcError(GrpcCode.UNKNOWN, "etcdserver: request timed out, leader transfer took too long")


def no_leader() -> Error:
    return from_code(Code.NO_LEADER)


def not_leader() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: not leader")


def leader_changed() -> Error:
    return from_code(Code.LEADER_CHANGED)


def bad_transferee() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee")


def unsupported_for_learner() -> Error:
    return from_code(Code.NOT_FOR_LEARNER)


def member_exists() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: member ID already exist")


def peer_url_exists() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")


def member_not_found() -> RpcError:
    return RpcError(GrpcCode.NOT_FOUND, "etcdserver: member not found")


def member_not_learner() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")


def learner_not_ready() -> RpcError:
    text = "etcdserver: can only promote a learner member which is in sync with leader"
    return RpcError(GrpcCode.FAILED_PRECONDITION, text)


def too_many_learners() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")


def bad_member_urls() -> RpcError:
    return RpcError(GrpcCode.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")


def not_enough_started() -> RpcError:
    """UNKNOWN on the wire, as etcd sends it."""
    return RpcError(GrpcCode.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members")


def unhealthy() -> RpcError:
    return RpcError(GrpcCode.UNAVAILABLE, "etcdserver: unhealthy cluster")


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
