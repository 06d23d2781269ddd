"""
Checkpoints that travel: the leader's side reads the newest one, a follower's takes one in the place of all it has.

    arrives:  checkpoint/INDEX.RANDOM.recv  --verified, loaded--> renamed to INDEX.ckpt --> mark in the log --> memory
                                                         ^ from here on, also after a crash, it is the state

Invariants:
* a reader reads one file from first to last, also when its name is gone.
* what arrives is hostile until `finish` has said nothing; until `rename` it counts for nothing, and goes with `abort`.
Thread safety: none; one thread at a time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from fastkv import errors
from fastkv.errors import Code
from fastkv.python import checkpoint
from fastkv.python.checkpoint import Picture
from fastkv.python.directory import storage_errors
from fastkv.python.storage import Sendable
from fastkv.python.store import Store

if TYPE_CHECKING:
    from fastkv.python.engine import PythonEngine


class PythonSnapshotReader:
    """A checkpoint to be sent."""

    def __init__(self, newest: Sendable) -> None:
        """StorageError: it may have been pruned."""
        self._newest = newest
        with storage_errors(f"read {newest.path}"):
            self._file = open(newest.path, "rb")  # noqa: SIM115  # until close
        self.size = os.fstat(self._file.fileno()).st_size

    @property
    def index(self) -> int:
        return self._newest.index

    @property
    def term(self) -> int:
        return self._newest.term

    @property
    def membership(self) -> bytes:
        return self._newest.membership

    def read(self, offset: int, length: int) -> bytes:
        if self._file.closed:
            raise errors.ClosedError("fastkv: the snapshot is closed")
        with storage_errors(f"read {self._newest.path}"):
            data = os.pread(self._file.fileno(), max(min(length, self.size - offset), 0), offset)
        if len(data) < min(length, self.size - offset):
            text = f"fastkv: checkpoint {self._newest.path}: the file was cut while it was sent"
            raise errors.from_code(Code.CORRUPT, text)
        return data

    def close(self) -> None:
        self._file.close()


class PythonSnapshotWriter:
    """A snapshot that arrives: `write` its bytes in order, `finish`, then `snapshot_install` or `abort`."""

    def __init__(self, engine: PythonEngine, path: str, index: int, term: int) -> None:
        self.engine, self.path = engine, path
        self.size = 0
        self._index, self._term = index, term
        self._loaded: tuple[Store, Picture] | None = None
        self._renamed = self._aborted = False
        with storage_errors(f"create {path}"):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.abort()

    def _check_open(self) -> None:
        if self._aborted:
            raise errors.ClosedError("fastkv: the snapshot is closed")
        self.engine._check_open()

    @property
    def membership(self) -> bytes:
        self._check_open()
        return b"" if self._loaded is None else self._loaded[1].membership

    def write(self, data: bytes) -> None:
        self._check_open()
        if self._fd < 0:
            raise errors.from_code(Code.CLOSED, f"fastkv: the snapshot {self.path} is finished")
        view = memoryview(data)
        with storage_errors(f"write {self.path}"):
            while view:
                written = os.pwrite(self._fd, view, self.size)
                self.size += written
                view = view[written:]

    def finish(self) -> None:
        self._check_open()
        if self._loaded is not None:
            return
        if self._fd < 0:
            raise errors.from_code(Code.CLOSED, f"fastkv: the snapshot {self.path} was refused")
        with storage_errors(f"sync {self.path}"):
            os.fsync(self._fd)
        self._close_file()
        picture = checkpoint.read(self.path, self._index)
        if picture.term != self._term:
            text = f"fastkv: snapshot {self.path} is of term {picture.term}, not of term {self._term}"
            raise errors.from_code(Code.CORRUPT, text)
        if not picture.may_be_sent:
            text = f"fastkv: snapshot {self.path} is a member's own checkpoint, not one for others"
            raise errors.from_code(Code.CORRUPT, text)
        self._loaded = checkpoint.restore_store(picture), picture

    def loaded(self) -> tuple[Store, Picture]:
        self._check_open()
        if self._loaded is None:
            raise errors.from_code(Code.CLOSED, f"fastkv: the snapshot {self.path} is not finished")
        return self._loaded

    def rename(self, name: str) -> None:
        if not self._renamed:  # an install that failed behind it may be tried again
            os.rename(self.path, os.path.join(os.path.dirname(self.path), name))
            self._renamed = True

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def abort(self) -> None:
        """Forget it, and its file. Of no effect once it is installed."""
        self._close_file()
        self._loaded = None
        self._aborted = True
        if not self._renamed and os.getpid() == self.engine._pid:
            with suppress(OSError):  # what stays is removed by the next open
                os.unlink(self.path)
