"""
A data directory: is it ours, is its format ours, and is nobody else in it?

    data/  FASTKV ("fastkv 2\\n")  LOCK (pid)  log/  checkpoint/

Invariants:
* FASTKV is written last when a directory is made, so one that has it is whole.
* the lock is held from before anything is read until release(), or the death of the process.
* a failed open changes nothing in a directory that is not ours, and never drops another's lock.
Thread safety: immutable after open().
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastkv import errors
from fastkv.errors import Code

FORMAT = 2
_MARK = b"fastkv %d\n" % FORMAT
# What may stand in a directory whose making was interrupted, or on a fresh file system.
_UNMARKED = {"LOCK", "FASTKV.tmp", "log", "checkpoint", "lost+found"}


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """OSError -> QuotaError for a full disk, StorageError for the rest. doing: "create /data/LOCK"."""
    try:
        yield
    except errors.Error:
        raise
    except OSError as reason:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.from_code(Code.NO_SPACE, f"fastkv: no space to {doing}: {reason.strerror}") from reason
        number = Code.NOT_FOUND if reason.errno == errno.ENOENT else Code.IO_ERROR
        raise errors.from_code(number, f"fastkv: cannot {doing}: {reason.strerror}") from reason


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Directory:
    def __init__(self, path: str, lock_fd: int | None) -> None:
        self.path = path
        self.log_path = os.path.join(path, "log")
        self.checkpoint_path = os.path.join(path, "checkpoint")
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: str, readonly: bool) -> Directory:
        """Creates what is missing, unless readonly. StorageError, FormatError, LockedError name the path."""
        if os.path.exists(path) and not os.path.isdir(path):
            raise errors.from_code(Code.FORMAT, f"fastkv: {path} is a file, not a directory")
        if readonly:
            _check_mark(path, readonly)
            return cls(path, None)
        with storage_errors(f"create the directory {path}"):
            os.makedirs(path, exist_ok=True)
        marked = _check_mark(path, readonly)
        directory = cls(path, _lock(path))
        try:
            with storage_errors(f"create directories in {path}"):
                os.makedirs(directory.log_path, exist_ok=True)
                os.makedirs(directory.checkpoint_path, exist_ok=True)
            if not marked:
                directory._mark()
        except errors.Error:
            directory.release()
            raise
        return directory

    def _mark(self) -> None:
        with storage_errors(f"make {self.path} a fastkv directory"):
            mark = os.path.join(self.path, "FASTKV")
            with open(mark + ".tmp", "wb") as file:
                file.write(_MARK)
                file.flush()
                os.fsync(file.fileno())
            os.rename(mark + ".tmp", mark)
            sync_directory(self.path)
            sync_directory(os.path.dirname(os.path.abspath(self.path)))

    def release(self) -> None:
        """Drop the lock. Idempotent."""
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)


def _check_mark(path: str, readonly: bool) -> bool:
    """Whether the directory is a whole one of ours; raises if it is not one and cannot be made one."""
    with storage_errors(f"open the directory {path}"):
        names = set(os.listdir(path))
    if "FASTKV" in names:
        mark_path = os.path.join(path, "FASTKV")
        with storage_errors(f"read {mark_path}"), open(mark_path, "rb") as file:
            mark = file.read(64)
        if mark == _MARK:
            return True
        words = mark.split()
        if len(words) == 2 and words[0] == b"fastkv" and words[1].isdigit():
            theirs = int(words[1])
            advice = "use a newer one" if theirs > FORMAT else "it was written before fastkv 0.1.0"
            raise errors.from_code(
                Code.FORMAT, f"fastkv: {path} has format {theirs}, this fastkv knows format {FORMAT}: {advice}"
            )
        raise errors.from_code(Code.FORMAT, f"fastkv: {mark_path} is damaged, or {path} is not a fastkv directory")
    with storage_errors(f"open the directory {path}"):
        filled = [name for name in ("log", "checkpoint") if name in names and os.listdir(os.path.join(path, name))]
    foreign = sorted(names - _UNMARKED) + filled
    if foreign:
        raise errors.from_code(Code.FORMAT, f"fastkv: {path} is not a fastkv directory: it holds {foreign[0]}")
    if readonly:
        raise errors.from_code(Code.NOT_FOUND, f"fastkv: {path} holds no fastkv store")
    return False


def _lock(path: str) -> int:
    """The descriptor that holds the lock."""
    lock_path = os.path.join(path, "LOCK")
    with storage_errors(f"lock {lock_path}"):
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _note_owner(fd)
        except BlockingIOError as reason:
            raise _locked(path, fd) from reason
        except BaseException:
            os.close(fd)
            raise
    return fd


def _note_owner(fd: int) -> None:
    """The pid, for the message of who comes next; a disk too full for it must not keep the store closed."""
    pid = b"%d\n" % os.getpid()
    try:
        os.pwrite(fd, pid, 0)
    except OSError as reason:
        if reason.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        pid = b""
    os.ftruncate(fd, len(pid))


def _locked(path: str, fd: int) -> errors.Error:
    digits = os.pread(fd, 32, 0).strip()
    os.close(fd)
    pid = int(digits) if digits.isdigit() else 0
    holder = "this process" if pid == os.getpid() else f"process {pid}" if pid else "another process"
    error = errors.from_code(Code.LOCKED, f"fastkv: {path} is already open in {holder}")
    assert isinstance(error, errors.LockedError)
    error.pid = pid
    return error
