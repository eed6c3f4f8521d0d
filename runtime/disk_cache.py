"""The cache on disk: files of native code by the hash of all that it depends on, shared by processes.

Note [Trust]
The files hold native code: who can write to one can run anything as the user who reads it. So the folder, and each file
in it, must belong to this user and be writable by nobody else; the folder is opened once for each access and looked at,
and the file opened relative to it. Each file begins with a checksum of the rest, and names its own key. A file that
does not fit is removed, reported once, and its program compiled anew.

Note [Processes]
A file is written under a name of its own and then renamed, so that readers see all of it or nothing, however many
write the same one, and whenever they are killed. Nothing is locked. What a killed process leaves is removed by the
first that cleans up an hour later. Nothing is synchronised to the device either: the checksum finds what a crash of the
system left half written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

_MAGIC = b"nufunc cache 1\n\0"
_HEAD = struct.Struct("<32sI")  # checksum of what follows it, and the length of the description
_SUFFIX = ".nufunc"
_NAME = r"[0-9a-f]{64}\.nufunc"
_TEMPORARY = r"\.writing-[0-9a-f]+"
_ABANDONED = 3600  # seconds after which a temporary file is nobody's
_FRESH = 600  # seconds in which a file's use is not written down again
_FULL = 0.8  # of the limit: what is left after cleaning up
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_SHARE = 4  # a file may take this part of the limit
DEFAULT_LIMIT = 1 << 30

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CacheWarning(UserWarning):
    """The cache on disk cannot be used, or a file in it is damaged. Results are right, but take longer."""


class Unusable(Exception):
    """Why the folder is not used. `known`: that it is not was asked for, or is no news."""

    def __init__(self, reason: str, known: bool = False) -> None:
        self.reason, self.known = reason, known
        super().__init__(reason)


class Stored(NamedTuple):
    """A file of the cache: its key, what it holds in words, its bytes, and when it was used last."""

    key: str
    about: str
    size: int
    used: float
    problem: str | None = None


def folder_path() -> str:
    """The folder of the cache: NUFUNC_CACHE_DIR, or `nufunc` in the user's folder for caches."""
    chosen = os.environ.get("NUFUNC_CACHE_DIR")
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    if sys.platform == "linux" and "ANDROID_DATA" not in os.environ:  # what platformdirs would say, without its import
        home = os.environ.get("XDG_CACHE_HOME", "").strip() or os.path.expanduser("~/.cache")
        return os.path.join(home, "nufunc")
    from platformdirs import user_cache_dir

    return user_cache_dir("nufunc", appauthor=False)


def size_limit() -> int:
    """Bytes that the files may take together: NUFUNC_CACHE_SIZE, a number with or without K, M or G."""
    text = os.environ.get("NUFUNC_CACHE_SIZE", "").strip().upper().removesuffix("B")
    if not text:
        return DEFAULT_LIMIT
    found = re.fullmatch(r"([0-9]+)\s*([KMG]?)", text)
    if found is None:
        _warn("size", f"NUFUNC_CACHE_SIZE is a number of bytes, such as 500M or 2G, not {text!r}")
        return DEFAULT_LIMIT
    return int(found[1]) * _UNITS[found[2]]


_warned: set[str] = set()


def _warn(kind: str, message: str) -> None:
    """Warn once in a process for each kind of trouble."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, CacheWarning, stacklevel=2)


def _reported(error: Unusable) -> str:
    if not error.known:
        _warn("folder", f"nufunc's cache on disk is not used: {error.reason}")
    return error.reason


class DiskCache:
    """Reads and writes files of the folder that the environment names at the time."""

    def __init__(self) -> None:
        self._written: int | None = None  # bytes since the folder was last cleaned up by this process

    def reason_off(self) -> str | None:
        """Why nothing is read or written, or None."""
        try:
            with self._opened():
                return None
        except Unusable as error:
            return _reported(error)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the folder, made if it is missing; Unusable where it is not to be used."""
        if os.environ.get("NUFUNC_CACHE", "1") in ("0", "off", "false"):
            raise Unusable("it is switched off by NUFUNC_CACHE", known=True)
        if not hasattr(os, "getuid"):
            raise Unusable("this system does not say whom files belong to", known=True)
        path = folder_path()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            try:
                folder = os.open(path, flags)
            except FileNotFoundError:
                os.makedirs(path, mode=0o700, exist_ok=True)
                folder = os.open(path, flags)
        except OSError as error:
            known = "NUFUNC_CACHE_DIR" not in os.environ  # a home that cannot be written to is no news to its user
            raise Unusable(f"the folder {path} cannot be opened: {error.strerror}", known) from error
        try:
            problem = _foreign(os.fstat(folder))
            if problem:
                raise Unusable(f"the folder {path} {problem}, and native code in it would not be safe to run")
            yield folder
        finally:
            os.close(folder)

    def get(self, key: str) -> bytes | None:
        """What was stored under a key; None if there is nothing, or nothing that can be trusted."""
        try:
            with self._opened() as folder:
                data = _read(folder, key + _SUFFIX)
                return None if data is None else self._checked(folder, key, data)
        except Unusable as error:
            _reported(error)
        except OSError as error:
            _warn("read", f"a file of nufunc's cache on disk cannot be read: {error}")
        return None

    def _checked(self, folder: int, key: str, data: bytes) -> bytes | None:
        try:
            return _parsed(data, key)[1]
        except ValueError as error:
            self._remove(folder, key, str(error))
            return None

    def _remove(self, folder: int, key: str, problem: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(key + _SUFFIX, dir_fd=folder)
        _warn("damaged", f"a file of nufunc's cache on disk is damaged ({problem}); what it held is compiled again")

    def discard(self, key: str, problem: str) -> None:
        """Remove what turned out not to be usable."""
        with contextlib.suppress(Unusable), self._opened() as folder:
            self._remove(folder, key, problem)

    def put(self, key: str, data: bytes, about: str) -> str | None:
        """Store; None, or why it was not stored."""
        whole = _formatted(key, data, about)
        limit = size_limit()
        if len(whole) * _SHARE > limit:
            return f"it takes {len(whole):,} bytes, more than a quarter of the limit"
        try:
            with self._opened() as folder:
                _write(folder, key + _SUFFIX, whole)
                written = 0 if self._written is None else self._written + len(whole)
                if self._written is None or written > limit // 32:
                    written = 0
                    _trim(folder, limit)
                self._written = written
        except Unusable as error:
            return _reported(error)
        except OSError as error:
            if "NUFUNC_CACHE_DIR" in os.environ or error.errno not in _READ_ONLY:
                _warn("write", f"nufunc's cache on disk cannot be written to: {error.strerror}")
            return f"it could not be written: {error.strerror}"
        return None

    # -- for people

    def entries(self, check: bool = False) -> list[Stored]:
        """The files, the last used first; with `check` all of each is read. Raises Unusable."""
        found = []
        with self._opened() as folder:
            for name, status in _files(folder):
                about, problem = "", None
                try:
                    data = _read(folder, name, None if check else 4096, touch=False)
                    if data is None:
                        continue
                    key = name.removesuffix(_SUFFIX)
                    about = _parsed(data, key, whole=check)[0]
                except (ValueError, OSError) as error:
                    problem = str(error)
                found.append(Stored(name.removesuffix(_SUFFIX), about, status.st_size, status.st_mtime, problem))
        return sorted(found, key=lambda s: -s.used)

    def remove(self, keys: list[str]) -> list[str]:
        """Remove files by key; which cannot be removed, and why. Raises Unusable."""
        with self._opened() as folder:
            return _unlinked(folder, [key + _SUFFIX for key in keys])

    def clear(self) -> tuple[int, list[str]]:
        """Remove all files; how many there were, and which of them cannot be removed, and why. Raises Unusable."""
        with self._opened() as folder:
            names = [name for name, _ in _files(folder)]
            left = _unlinked(folder, names)
            _remove_abandoned(folder, age=0)
        return len(names), left


DISK = DiskCache()


def _foreign(status: os.stat_result) -> str | None:
    """Why what this belongs to is not to be trusted."""
    if status.st_uid != os.getuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others"
    return None


def _unlinked(folder: int, names: list[str]) -> list[str]:
    """Remove files; which could not be, and why."""
    left = []
    for name in names:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            left.append(f"{name}: {error.strerror}")
    return left


def _read(folder: int, name: str, size: int | None = None, touch: bool = True) -> bytes | None:
    """The bytes of a file, or the first of them; None where there is none."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    status = os.fstat(handle)
    problem = _foreign(status) if stat.S_ISREG(status.st_mode) else "is no plain file"
    if problem:
        os.close(handle)
        raise OSError(f"{name} {problem}")
    with open(handle, "rb") as file:
        data = file.read() if size is None else file.read(size)
        if touch and time.time() - status.st_mtime > _FRESH:
            with contextlib.suppress(OSError):  # a folder that can only be read serves as well
                os.utime(handle)
    return data


def _write(folder: int, name: str, data: bytes) -> None:
    temporary = f".writing-{os.urandom(8).hex()}"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with open(handle, "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _formatted(key: str, data: bytes, about: str) -> bytes:
    import json  # when there is something to store or to read

    head = json.dumps({"key": key, "about": about, "size": len(data)}).encode()
    body = head + data
    length = struct.pack("<I", len(head))
    return _MAGIC + hashlib.sha256(length + body).digest() + length + body


def _parsed(data: bytes, key: str, whole: bool = True) -> tuple[str, bytes]:
    """(description, content) of a file; ValueError where it is not what was written under this key."""
    start = len(_MAGIC) + _HEAD.size
    if len(data) < start or not data.startswith(_MAGIC):
        raise ValueError("it is no file of this cache")
    digest, length = _HEAD.unpack_from(data, len(_MAGIC))
    if whole and hashlib.sha256(memoryview(data)[len(_MAGIC) + 32 :]).digest() != digest:
        raise ValueError("its checksum is wrong")
    import json

    head: dict[str, Any] = json.loads(data[start : start + length])
    if head["key"] != key:
        raise ValueError("it holds something else")
    return str(head["about"]), data[start + length :]


def _files(folder: int) -> list[tuple[str, os.stat_result]]:
    found = []
    for name in os.listdir(folder):
        if re.fullmatch(_NAME, name):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
    return found


def _trim(folder: int, limit: int) -> None:
    """Remove what was not used for longest, if there is too much, and what killed processes left."""
    _remove_abandoned(folder, _ABANDONED)
    files = _files(folder)
    total = sum(status.st_size for _, status in files)
    if total <= limit:
        return
    for name, status in sorted(files, key=lambda f: f[1].st_mtime):
        if not _unlinked(folder, [name]):
            total -= status.st_size
        if total <= limit * _FULL:
            return


def _remove_abandoned(folder: int, age: float) -> None:
    for name in os.listdir(folder):
        if re.fullmatch(_TEMPORARY, name):
            with contextlib.suppress(OSError):
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime >= age:
                    os.unlink(name, dir_fd=folder)
