"""
A copy of a store as one stream of bytes, and a store made of such a copy.

    backup  :=  a checkpoint file (docs/format.md), byte for byte: every key with its history, the leases, the node's
    own bytes

A backup is consistent: it holds the state after one batch, whatever is written while it is copied. It is verified
(checksums, and everything that `check` walks) when it is restored, before the directory is ready for use.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from fastkv import engine as engines
from fastkv.engine import TXN, Engine, Options
from fastkv.errors import CorruptError, FormatError, UnsupportedError

COPY_BYTES = 1 << 20
MAGIC = b"fkvckpt\2"
MARK = b"fastkv 2\n"

Progress = Callable[[int, int], object]


def backup(engine: Engine, target: BinaryIO | str | os.PathLike[str], progress: Progress | None) -> int:
    """Copy the store to a stream or a file; returns the bytes written. See `DB.backup`."""
    if engine.path is None:
        raise UnsupportedError("a store in memory has no files to copy: open it in a directory to back it up")
    with _open_checkpoint(engine) as source:
        if not isinstance(target, str | os.PathLike):
            return _copy(source, target, os.fstat(source.fileno()).st_size, progress)
        path = os.fspath(target)
        unfinished = path + ".tmp"
        try:
            with _create(unfinished) as file:
                written = _copy(source, file, os.fstat(source.fileno()).st_size, progress)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise
        _sync_directory(os.path.dirname(path) or ".")
        return written


def restore(
    source: BinaryIO | str | os.PathLike[str], path: str | os.PathLike[str], *, progress: Progress | None = None
) -> int:
    """Make a store of a backup: `fastkv.restore("monday.fkv", "data")`; returns its revision.

    source: what `DB.backup` wrote: a stream opened for reading bytes, or a path. path: the new directory; it must not
    exist, or be empty.
    progress: called as progress(bytes_done, bytes_total) after each MiB; bytes_total is 0 if a stream cannot tell.

    Raises FormatError if it is no backup or the directory is not empty, CorruptError if it is damaged or cut short;
    then the directory is as it was before.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return restore(file, path, progress=progress)
    directory = os.path.abspath(os.fspath(path))
    existed = os.path.isdir(directory)
    if existed and os.listdir(directory):
        raise FormatError(f"{directory} is not empty: a backup is restored into a new directory")
    head = _read_all(source, 32)
    if head[: len(MAGIC)] != MAGIC or len(head) < 32:
        raise FormatError("this is not a backup of a fastkv store")
    index = struct.unpack_from("<Q", head, 20)[0]  # magic (8), block header (12), index
    try:
        for part in ("log", "checkpoint"):
            os.makedirs(os.path.join(directory, part), exist_ok=True)
            os.chmod(os.path.join(directory, part), 0o700)
        if not existed:
            os.chmod(directory, 0o700)
        checkpoint = os.path.join(directory, "checkpoint", f"{index:016x}.ckpt")
        with _create(checkpoint) as file:
            file.write(head)
            _copy(source, file, _size(source), progress, len(head))
            file.flush()
            os.fsync(file.fileno())
        with _create(os.path.join(directory, "FASTKV")) as file:
            file.write(MARK)
            file.flush()
            os.fsync(file.fileno())
        for parent in (os.path.dirname(checkpoint), directory, os.path.dirname(directory)):
            _sync_directory(parent)
        return _verify(directory)
    except BaseException:
        for part in ("log", "checkpoint"):
            shutil.rmtree(os.path.join(directory, part), ignore_errors=True)
        for name in ("FASTKV", "LOCK"):
            with suppress(OSError):
                os.unlink(os.path.join(directory, name))
        if not existed:
            with suppress(OSError):
                os.rmdir(directory)
        raise


def _verify(directory: str) -> int:
    engine: Engine = engines.load()(directory, Options())
    try:
        if damage := engine.check():
            raise CorruptError("the backup is damaged: " + "; ".join(damage))
        return engine.revision
    finally:
        engine.close()


def _open_checkpoint(engine: Engine) -> BinaryIO:
    assert engine.path is not None
    if engine.applied_index == 0:  # nothing was ever written, so no checkpoint would be: a txn of nothing is something
        engine.commit([(TXN, b"")])
    while True:
        name = f"{engine.checkpoint():016x}.ckpt"
        try:
            return open(os.path.join(engine.path, "checkpoint", name), "rb")
        except FileNotFoundError:  # two newer ones have been written in between: take the next
            if engine.stats()["checkpoint_index"] <= int(name[:16], 16):
                raise


def _copy(source: BinaryIO, target: BinaryIO, bytes_total: int, progress: Progress | None, bytes_done: int = 0) -> int:
    while piece := source.read(COPY_BYTES):
        _write_all(target, piece)
        bytes_done += len(piece)
        if progress is not None:
            progress(bytes_done, bytes_total)
    return bytes_done


def _read_all(source: BinaryIO, size: int) -> bytes:
    """So many bytes, or what there is: a pipe gives what it has."""
    parts: list[bytes] = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write_all(target: BinaryIO, data: bytes) -> None:
    """A pipe takes what it can; a stream that does not say how much took all."""
    rest = memoryview(data)
    while rest:
        taken: int | None = target.write(rest)
        rest = rest[len(rest) if taken is None else taken :]


def _create(path: str) -> BinaryIO:
    """A new or emptied file for its owner only, whatever it was before and whatever the umask."""
    file = open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600))  # noqa: SIM115
    os.fchmod(file.fileno(), 0o600)
    return file


def _size(stream: BinaryIO) -> int:
    """Bytes of a stream from its very start, 0 if it cannot tell."""
    if not stream.seekable():
        return 0
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
