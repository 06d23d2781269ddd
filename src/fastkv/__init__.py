"""
fastkv: an ordered, versioned, watchable, crash-safe key-value store.

    import fastkv

    db = fastkv.open("data")               # or ":memory:"
    revision = db.put("greeting", "hello")
    db.get("greeting")                     # b"hello"

`open` gives a DB; the records, errors and the parts of txns are below, by name. Importing this loads neither protobuf,
grpcio, asyncio nor OpenSSL. `fastkv.engine` is the module of the Engine protocol; which engine is used says
`engine_name()`, or `db.engine`.
"""

from fastkv._version import __version__
from fastkv.backup import restore
from fastkv.batch import Batch
from fastkv.errors import (
    ClosedError,
    Code,
    CompactedError,
    ConflictError,
    CorruptError,
    Error,
    ForkedError,
    FormatError,
    FutureRevisionError,
    GrpcCode,
    InvalidRequestError,
    KeyNotFoundError,
    LeaseExistsError,
    LeaseNotFoundError,
    LeaseTtlTooLargeError,
    LockedError,
    PoisonedError,
    QuotaError,
    ReadOnlyError,
    StorageError,
    UnsupportedError,
)
from fastkv.lease import Lease
from fastkv.ops import Compare, Op, Txn, delete, get, key, put, txn
from fastkv.reads import View
from fastkv.store import DB, engine_name, open
from fastkv.transaction import Transaction
from fastkv.types import (
    DeleteResult,
    Event,
    EventType,
    GetResult,
    KeyValue,
    PutResult,
    Stats,
    TxnResult,
    WatchBatch,
)
from fastkv.watch import Watch

__all__ = [
    "__version__",
    # the store
    "open",
    "restore",
    "engine_name",
    "DB",
    "View",
    "Batch",
    "Transaction",
    "Lease",
    "Watch",
    # txns
    "key",
    "put",
    "get",
    "delete",
    "txn",
    "Compare",
    "Op",
    "Txn",
    # records
    "KeyValue",
    "Event",
    "EventType",
    "WatchBatch",
    "PutResult",
    "DeleteResult",
    "GetResult",
    "TxnResult",
    "Stats",
    # errors
    "Error",
    "InvalidRequestError",
    "KeyNotFoundError",
    "CompactedError",
    "FutureRevisionError",
    "ConflictError",
    "QuotaError",
    "LeaseNotFoundError",
    "LeaseExistsError",
    "LeaseTtlTooLargeError",
    "UnsupportedError",
    "ReadOnlyError",
    "ClosedError",
    "ForkedError",
    "StorageError",
    "CorruptError",
    "FormatError",
    "LockedError",
    "PoisonedError",
    "Code",
    "GrpcCode",
]
