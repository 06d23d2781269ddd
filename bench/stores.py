"""
The stores that bench/embedded.py compares, behind the smallest common interface, each used as its own documentation
says.

Every store is opened in one directory and offers:
* getter()          a callable key -> value or None, cheapest form (lmdb: within one read transaction)
* scan(start, n)    an iterable of (key, value) tuples from `start` on, at most n; start None and n None = everything
* put(key, value)   one autocommitted write
* batch(items)      all of the items atomically, one commit
* close()

`sync=True` means: on the device when the call returns. `sync=False`: survives the death of the process where the store
can promise that (fastkv, rocksdict's log, sqlite), whatever comes closest otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

Item = tuple[bytes, bytes]


class FastkvStore:
    """fastkv through its public API; FASTKV_ENGINE says which engine."""

    threads = True

    def __init__(self, path: Path, sync: bool) -> None:
        import fastkv

        self.db = fastkv.open(path, sync=sync)
        wanted = os.environ.get("FASTKV_ENGINE", "native")
        if self.db.engine != wanted:
            raise RuntimeError(f"asked for the {wanted} engine, got {self.db.engine}")
        self.put: Callable[[bytes, bytes], Any] = self.db.put

    def getter(self) -> Callable[[bytes], bytes | None]:
        return self.db.get

    def scan(self, start: bytes | None, limit: int | None) -> Iterable[Item]:
        return self.db.items(start=start, limit=limit)

    def batch(self, items: Sequence[Item]) -> None:
        self.db.put_many(items)

    def close(self) -> None:
        self.db.close()


class LmdbStore:
    """py-lmdb. Its write transactions sync data and meta page, two syncs a commit."""

    threads = True

    def __init__(self, path: Path, sync: bool) -> None:
        import lmdb

        self.env = lmdb.open(str(path), map_size=8 << 30, sync=sync, max_readers=16)

    def getter(self) -> Callable[[bytes], bytes | None]:
        return self.env.begin().get

    def scan(self, start: bytes | None, limit: int | None) -> Iterable[Item]:
        with self.env.begin() as txn, txn.cursor() as cursor:
            if start is None:
                yield from cursor.iternext()
            elif cursor.set_range(start):
                yield from islice(cursor.iternext(), limit)

    def put(self, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key, value)

    def batch(self, items: Sequence[Item]) -> None:
        with self.env.begin(write=True) as txn:
            put = txn.put
            for key, value in items:
                put(key, value)

    def close(self) -> None:
        self.env.close()


class RocksdictStore:
    """RocksDB through rocksdict, raw mode. Its log is written with every put and synced if asked for."""

    threads = True

    def __init__(self, path: Path, sync: bool) -> None:
        from rocksdict import Options, Rdict, WriteBatch, WriteOptions

        self.db = Rdict(str(path), Options(raw_mode=True))
        self.write_batch = WriteBatch
        options = WriteOptions()
        options.sync = sync
        self.db.set_write_options(options)
        self.put: Callable[[bytes, bytes], Any] = self.db.put

    def getter(self) -> Callable[[bytes], bytes | None]:
        return self.db.get

    def scan(self, start: bytes | None, limit: int | None) -> Iterable[Item]:
        items = self.db.items() if start is None else self.db.items(from_key=start)
        return items if limit is None else islice(items, limit)

    def batch(self, items: Sequence[Item]) -> None:
        batch = self.write_batch(raw_mode=True)
        put = batch.put
        for key, value in items:
            put(key, value)
        self.db.write(batch)

    def close(self) -> None:
        self.db.close()


class SqliteStore:
    """The standard library's sqlite3: one table, write-ahead log, a connection for each thread."""

    threads = True

    def __init__(self, path: Path, sync: bool) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.sync, self.local, self.connections = path / "db.sqlite", sync, threading.local(), []
        self._connection().execute("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def _connection(self) -> Any:
        if not hasattr(self.local, "connection"):
            import sqlite3

            connection = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={'FULL' if self.sync else 'OFF'}")
            connection.execute("PRAGMA cache_size=-262144")
            self.connections.append(connection)
            self.local.connection = connection
        return self.local.connection

    def getter(self) -> Callable[[bytes], bytes | None]:
        execute = self._connection().execute

        def get(key: bytes) -> bytes | None:
            row = execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
            return row[0] if row else None

        return get

    def scan(self, start: bytes | None, limit: int | None) -> Iterable[Item]:
        if start is None:
            return self._connection().execute("SELECT k, v FROM kv ORDER BY k")
        return self._connection().execute("SELECT k, v FROM kv WHERE k >= ? ORDER BY k LIMIT ?", (start, limit))

    def put(self, key: bytes, value: bytes) -> None:
        self._connection().execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def batch(self, items: Sequence[Item]) -> None:
        connection = self._connection()
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", items)
        connection.execute("COMMIT")

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


class DictStore:
    """A dict: neither ordered nor stored. What Python itself costs."""

    threads = False

    def __init__(self, path: Path, sync: bool) -> None:
        self.data: dict[bytes, bytes] = {}
        self.put: Callable[[bytes, bytes], Any] = self.data.__setitem__

    def getter(self) -> Callable[[bytes], bytes | None]:
        return self.data.get

    def scan(self, start: bytes | None, limit: int | None) -> Iterable[Item]:
        return self.data.items()

    def batch(self, items: Sequence[Item]) -> None:
        self.data.update(items)

    def close(self) -> None:
        self.data = {}


STORES: dict[str, Callable[[Path, bool], Any]] = {
    "fastkv": FastkvStore,
    "python": FastkvStore,
    "lmdb": LmdbStore,
    "rocksdict": RocksdictStore,
    "sqlite3": SqliteStore,
    "dict": DictStore,
}
PERSISTENT = ("fastkv", "python", "lmdb", "rocksdict", "sqlite3")
