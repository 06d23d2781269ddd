"""
Every error fastkv raises, one row each: number, class, gRPC code, exact text.

Numbers below 100 are the client's errors: deterministic, the same on every replica, shared with cpp/base/status.h. From
100 on they are the world's (disk, lock, corruption), from 120 on a server's (no leader, not in time). Texts and gRPC
codes of the client's and the server's errors are etcd's (api/v3rpc).
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Engine status numbers (cpp/base/status.h); never renumbered."""

    OK = 0
    EMPTY_KEY = 1
    KEY_NOT_FOUND = 2
    VALUE_PROVIDED = 3
    LEASE_PROVIDED = 4
    TOO_MANY_OPS = 5
    DUPLICATE_KEY = 6
    INVALID_SORT = 7
    COMPACTED = 8
    FUTURE_REVISION = 9
    NO_SPACE = 10
    LEASE_NOT_FOUND = 11
    LEASE_EXISTS = 12
    LEASE_TTL_TOO_LARGE = 13
    REQUEST_TOO_LARGE = 14
    MALFORMED = 15
    STREAM_SORT = 16
    STREAM_FILTER = 17
    CLUSTER_CORRUPT = 18
    IO_ERROR = 100
    CORRUPT = 101
    LOCKED = 102
    FORMAT = 103
    POISONED = 104
    CLOSED = 105
    NOT_FOUND = 106
    READ_ONLY = 107
    STOPPED = 120
    TOO_MANY_REQUESTS = 121
    TIMED_OUT = 122
    TIMED_OUT_LEADER_FAILED = 123
    TIMED_OUT_DISCONNECTED = 124
    DEADLINE_EXCEEDED = 125
    NO_LEADER = 126
    LEADER_CHANGED = 127
    NOT_FOR_LEARNER = 128


class GrpcCode(IntEnum):
    """gRPC status codes (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(Exception):
    """The root of fastkv's errors. `code` is the gRPC code, `number` the engine's, `retryable` whether trying again may
    help.
    """

    code: GrpcCode = GrpcCode.UNKNOWN
    number: Code = Code.IO_ERROR
    retryable: bool = False


class InvalidRequestError(Error, ValueError):
    """The request cannot be carried out as it stands, whatever the store holds."""

    code = GrpcCode.INVALID_ARGUMENT


class KeyNotFoundError(InvalidRequestError, KeyError):
    """ignore_value or ignore_lease of a key that is not there."""

    __str__ = Exception.__str__


class CompactedError(Error):
    """The revision has been compacted away. `compact_revision`: the oldest one still readable, 0 if not known."""

    code = GrpcCode.OUT_OF_RANGE
    compact_revision: int = 0


class FutureRevisionError(Error):
    """The revision has not been written yet."""

    code = GrpcCode.OUT_OF_RANGE


class QuotaError(Error):
    """No room: the quota is reached or the disk is full. Reads go on."""

    code = GrpcCode.RESOURCE_EXHAUSTED


class ClusterCorruptError(Error):
    """The CORRUPT alarm is on: no writes until it is disarmed. Reads go on."""

    code = GrpcCode.DATA_LOSS


class LeaseNotFoundError(Error):
    """The lease does not exist (any more)."""

    code = GrpcCode.NOT_FOUND


class LeaseExistsError(Error):
    """A lease with this id exists already."""

    code = GrpcCode.FAILED_PRECONDITION


class LeaseTtlTooLargeError(Error, ValueError):
    """A TTL above 9,000,000,000 seconds."""

    code = GrpcCode.OUT_OF_RANGE


class UnsupportedError(Error):
    """The combination is refused on purpose."""

    code = GrpcCode.UNIMPLEMENTED


class StorageError(Error, OSError):
    """The disk failed. After a failed sync the store takes no more writes until it is opened again."""

    code = GrpcCode.UNAVAILABLE


class CorruptError(StorageError):
    """What is on disk is not what was written; the message names file and offset."""

    code = GrpcCode.DATA_LOSS


class FormatError(StorageError):
    """The directory is not fastkv's, or was written by a newer fastkv."""

    code = GrpcCode.FAILED_PRECONDITION


class LockedError(StorageError):
    """Another process has the directory open. `pid`: whose, 0 if not known."""

    code = GrpcCode.UNAVAILABLE
    retryable = True
    pid: int = 0


class PoisonedError(StorageError):
    """An earlier failure (a failed sync, a broken invariant) ended this store's writes."""


class ReadOnlyError(Error):
    """A write to a store opened readonly."""

    code = GrpcCode.FAILED_PRECONDITION


class ClosedError(Error):
    """The store is closed."""

    code = GrpcCode.UNAVAILABLE


class ForkedError(ClosedError):
    """The store was opened by the parent process; open it again in the child."""


class UnavailableError(Error):
    """The server stops, its cluster has no leader, or time was up. A write may have been done, or be done yet."""

    code = GrpcCode.UNAVAILABLE


class DeadlineError(Error):
    """Nobody could be asked before the time was up: the cluster has no leader."""

    code = GrpcCode.DEADLINE_EXCEEDED


class TooManyRequestsError(Error):
    """More requests wait than are let in; nothing was done. The gRPC code is etcd's, which clients have learned."""

    code = GrpcCode.UNKNOWN
    retryable = True


class LearnerError(Error):
    """A learner answers serializable reads only."""

    code = GrpcCode.FAILED_PRECONDITION


class ConflictError(Error):
    """A transactional function kept losing to other writers."""

    code = GrpcCode.ABORTED
    retryable = True


# number -> (class, exact text). The gRPC code is the class's.
TABLE: dict[Code, tuple[type[Error], str]] = {
    Code.EMPTY_KEY: (InvalidRequestError, "etcdserver: key is not provided"),
    Code.KEY_NOT_FOUND: (KeyNotFoundError, "etcdserver: key not found"),
    Code.VALUE_PROVIDED: (InvalidRequestError, "etcdserver: value is provided"),
    Code.LEASE_PROVIDED: (InvalidRequestError, "etcdserver: lease is provided"),
    Code.TOO_MANY_OPS: (InvalidRequestError, "etcdserver: too many operations in txn request"),
    Code.DUPLICATE_KEY: (InvalidRequestError, "etcdserver: duplicate key given in txn request"),
    Code.INVALID_SORT: (InvalidRequestError, "etcdserver: invalid sort option"),
    Code.COMPACTED: (CompactedError, "etcdserver: mvcc: required revision has been compacted"),
    Code.FUTURE_REVISION: (FutureRevisionError, "etcdserver: mvcc: required revision is a future revision"),
    Code.NO_SPACE: (QuotaError, "etcdserver: mvcc: database space exceeded"),
    Code.LEASE_NOT_FOUND: (LeaseNotFoundError, "etcdserver: requested lease not found"),
    Code.LEASE_EXISTS: (LeaseExistsError, "etcdserver: lease already exists"),
    Code.LEASE_TTL_TOO_LARGE: (LeaseTtlTooLargeError, "etcdserver: too large lease TTL"),
    Code.REQUEST_TOO_LARGE: (InvalidRequestError, "etcdserver: request is too large"),
    Code.MALFORMED: (InvalidRequestError, "fastkv: the request is not a message of the expected type"),
    Code.STREAM_SORT: (UnsupportedError, "RangeStream does not support custom sort orders"),
    Code.STREAM_FILTER: (UnsupportedError, "RangeStream does not support revision filters"),
    Code.CLUSTER_CORRUPT: (ClusterCorruptError, "etcdserver: corrupt cluster"),
    Code.IO_ERROR: (StorageError, "fastkv: input/output error"),
    Code.CORRUPT: (CorruptError, "fastkv: corrupt"),
    Code.LOCKED: (LockedError, "fastkv: the directory is open in another process"),
    Code.FORMAT: (FormatError, "fastkv: not a fastkv directory of this format"),
    Code.POISONED: (PoisonedError, "fastkv: an earlier failure ended this store's writes"),
    Code.CLOSED: (ClosedError, "fastkv: the store is closed"),
    Code.NOT_FOUND: (StorageError, "fastkv: no such file or directory"),
    Code.READ_ONLY: (ReadOnlyError, "fastkv: the store was opened readonly"),
    Code.STOPPED: (UnavailableError, "etcdserver: server stopped"),
    Code.TOO_MANY_REQUESTS: (TooManyRequestsError, "etcdserver: too many requests"),
    Code.TIMED_OUT: (UnavailableError, "etcdserver: request timed out"),
    Code.TIMED_OUT_LEADER_FAILED: (
        UnavailableError,
        "etcdserver: request timed out, possibly due to previous leader failure",
    ),
    Code.TIMED_OUT_DISCONNECTED: (UnavailableError, "etcdserver: request timed out, possibly due to connection lost"),
    Code.DEADLINE_EXCEEDED: (DeadlineError, "context deadline exceeded"),
    Code.NO_LEADER: (UnavailableError, "etcdserver: no leader"),
    Code.LEADER_CHANGED: (UnavailableError, "etcdserver: leader changed"),
    Code.NOT_FOR_LEARNER: (LearnerError, "etcdserver: rpc not supported for learner"),
}


def from_code(number: int, message: str = "") -> Error:
    """The error for an engine status number, with its exact text or, for the world's errors, the message that names
    what and where.
    """
    code = Code(number)
    cls, text = TABLE[code]
    error = cls(message or text)
    error.number = code
    return error
