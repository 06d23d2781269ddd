"""
Files in memory that lose what was not synced, for the code of fastkv.python.log: what cpp/base/fault_env.h is in C++.

    files = FaultyFiles(rng)
    with files.mounted():  Log(...)          the log's modules see these files in place of `os` and `open`
    files.lose_power()                       unsynced sectors and names survive at random
    files.fail_next_sync = True              the next sync fails

Power loss, per file: every 512-byte sector ends up as any of the versions it had since the last sync, each by itself (a
write is torn, dropped, or reordered after a later one); the size as synced or newest. Per directory: the unsynced
creates, renames and removes survive up to one point, as on a journalling file system.

Invariant: a synced byte in a synced name is never lost. Thread safety: none.
"""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastkv.python import directory, log, recovery

SECTOR = 512


class _File:
    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = b""
        self.versions: dict[int, list[bytes]] = {}  # sector -> what it has been since the last sync

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if len(self.data) < end:
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            self.versions.setdefault(sector, []).append(bytes(self.data[sector * SECTOR : (sector + 1) * SECTOR]))

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def sync(self) -> None:
        self.synced = bytes(self.data)
        self.versions.clear()

    def lose_power(self, rng: random.Random) -> None:
        size = rng.choice((len(self.synced), len(self.data)))
        after = bytearray(self.synced.ljust(size, b"\0")[:size])
        for sector, versions in sorted(self.versions.items()):
            begin = sector * SECTOR
            version = rng.choice([self.synced[begin : begin + SECTOR], *versions]).ljust(SECTOR, b"\0")
            after[begin : begin + SECTOR] = version[: max(min(size - begin, SECTOR), 0)]
        self.data = after
        self.sync()


class _Directory:
    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        self.versions: list[dict[str, _File]] = [{}]  # as synced, and after each change since then

    def changed(self) -> None:
        self.versions.append(dict(self.names))

    def sync(self) -> None:
        self.versions = [dict(self.names)]

    def lose_power(self, rng: random.Random) -> None:
        self.names = dict(rng.choice(self.versions))
        self.sync()
        for name in sorted(self.names):
            self.names[name].lose_power(rng)


class FaultyFiles:
    """Directories need not be made; they have no directories in them. What is not here is as in `os`."""

    class path:  # as os.path
        join = staticmethod(os.path.join)
        isdir = staticmethod(lambda path: True)

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.fail_next_sync = False
        self._directories: dict[str, _Directory] = {}
        self._open: dict[int, _File | _Directory] = {}
        self._next = 1000

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Not mock.patch: this happens at every write."""
        replaced: tuple[tuple[Any, str, Any], ...] = (
            (log, "os", self), (recovery, "os", self), (directory, "os", self), (log, "_sync_data", self.fsync),
        )  # fmt: skip
        before = [getattr(module, name) for module, name, _ in replaced]
        for module, name, value in replaced:
            setattr(module, name, value)
        recovery.open = self.open_by_name  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del recovery.open  # type: ignore[attr-defined]
            for (module, name, _), value in zip(replaced, before, strict=True):
                setattr(module, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # -- power ------------------------------------------------------------------------------------------------
    def lose_power(self) -> None:
        for name in sorted(self._directories):
            self._directories[name].lose_power(self.rng)
        self.end_process()

    def end_process(self) -> None:
        """What was written stays in the page cache; open files are gone."""
        self._open.clear()
        self.fail_next_sync = False

    # -- what fastkv.python.{log,recovery,directory} call -----------------------------------------------------
    def _directory(self, path: str) -> _Directory:
        return self._directories.setdefault(path, _Directory())

    def _find(self, path: str) -> _File:
        folder, name = os.path.split(path)
        names = self._directory(folder).names
        if name not in names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return names[name]

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        if flags & os.O_DIRECTORY:
            return self.opened(self._directory(path))
        folder, name = os.path.split(path)
        parent = self._directory(folder)
        if flags & os.O_CREAT and name not in parent.names:
            parent.names[name] = _File()
            parent.changed()
        file = self._find(path)
        if flags & os.O_TRUNC:
            file.resize(0)
        return self.opened(file)

    def opened(self, item: _File | _Directory) -> int:
        self._next += 1
        self._open[self._next] = item
        return self._next

    def _file(self, fd: int) -> _File:
        file = self._open[fd]
        assert isinstance(file, _File), "a directory is only synced"
        return file

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._file(fd).write(bytes(data), offset)
        return len(data)

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        file = self._file(fd)
        file.resize(max(len(file.data), offset + length))

    def ftruncate(self, fd: int, length: int) -> None:
        self._file(fd).resize(length)

    def fstat(self, fd: int) -> os.stat_result:
        return os.stat_result((0, 0, 0, 0, 0, 0, len(self._file(fd).data), 0, 0, 0))

    def fsync(self, fd: int) -> None:
        if self.fail_next_sync:
            raise OSError(errno.EIO, "simulated")
        self._open[fd].sync()

    fdatasync = fsync

    def unlink(self, path: str) -> None:
        self._find(path)
        folder, name = os.path.split(path)
        del self._directory(folder).names[name]
        self._directory(folder).changed()

    def rename(self, old: str, new: str) -> None:
        """Within one directory."""
        file = self._find(old)
        folder, name = os.path.split(new)
        parent = self._directory(folder)
        parent.names[name] = file
        del parent.names[os.path.basename(old)]
        parent.changed()

    def listdir(self, path: str) -> list[str]:
        return list(self._directory(path).names)

    def urandom(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def open_by_name(self, path: str, mode: str) -> io.BytesIO:
        """The built-in `open`."""
        return _Stream(self, self._find(path))


class _Stream(io.BytesIO):
    """Written through: nothing waits in a buffer."""

    def __init__(self, files: FaultyFiles, file: _File) -> None:
        super().__init__(bytes(file.data))
        self._files, self._to = files, file

    def write(self, data: Any) -> int:
        self._to.write(bytes(data), self.tell())
        return super().write(data)

    def fileno(self) -> int:
        return self._files.opened(self._to)
