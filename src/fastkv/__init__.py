"""
fastkv: an ordered, versioned, watchable, crash-safe key-value store.

    >>> import fastkv
    >>> db = fastkv.open(":memory:")                # or a directory: fastkv.open("data")
    >>> db.put("user/1", "Ada")                     # bytes, str (UTF-8) or any buffer; returns the revision
    2
    >>> db.get("user/1"), db.get("user/2"), db["user/1"]
    (b'Ada', None, b'Ada')

Ranges are lazy, in the order of the keys, and of one revision:

    >>> db.update({"user/2": "Grace", "user/3": "Edsger"})
    >>> list(db.keys(prefix="user/", reverse=True, limit=2))
    [b'user/3', b'user/2']
    >>> db.count(start="user/2"), len(db)
    (2, 3)

A batch is one revision, or nothing at all; the past stays readable until it is compacted:

    >>> with db.batch() as batch:
    ...     batch.put("user/1", "Ada Lovelace")
    ...     batch.delete("user/3")
    >>> db["user/1"], db.at(2)["user/1"], db.get_kv("user/1").version
    (b'Ada Lovelace', b'Ada', 2)

A txn compares and then writes; a transactional function reads, decides and writes, and runs again if it was overtaken:

    >>> create = db.txn().when(fastkv.key("seat/1").version == 0).then(fastkv.put("seat/1", "Ada"))
    >>> create.commit().succeeded, create.commit().succeeded
    (True, False)
    >>> @db.transactional
    ... def visit(t, page):
    ...     t[page] = str(int(t.get(page, 0)) + 1)
    >>> visit("home"); visit("home"); db["home"]
    b'2'

A watch hands out what changes, one whole revision at a time, from any revision that is not compacted:

    >>> with db.watch(prefix="user/", start_revision=4) as watch:
    ...     batch = next(watch)
    ...     batch.revision, [(event.type.value, event.kv.key) for event in batch]
    (4, [('DELETE', b'user/3'), ('PUT', b'user/1')])

Keys can hang on a lease, or have a time to live of their own:

    >>> with db.lease(ttl=10) as lease:             # kept alive in the block, revoked behind it
    ...     revision = db.put("online/ada", "yes", lease=lease)
    >>> "online/ada" in db
    False
    >>> revision = db.put("session/1", "Ada", ttl=3600)
    >>> db
    <fastkv.DB path=':memory:' revision=10 keys=5 engine=... open>
    >>> db.close()

The records, errors and the parts of txns are below, by name. Importing this loads neither protobuf, grpcio, asyncio nor
OpenSSL. `fastkv.engine` is the module of the Engine protocol; `engine_name()` and `db.engine` say which engine is used.
"""

from fastkv._version import __version__
from fastkv.backup import restore
from fastkv.batch import Batch
from fastkv.errors import (
    ClosedError,
    ClusterCorruptError,
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
    "ClusterCorruptError",
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
