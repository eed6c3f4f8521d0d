"""The cache on disk from the command line: `python -m nufunc.cache info | list | verify | clear`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from nufunc.runtime.disk_cache import DISK, Stored, Unusable, folder_path, size_limit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nufunc.cache", description="The cache of machine code on disk.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="the folder, what it holds, and its limit")
    commands.add_parser("list", help="the files, the last used first")
    verify = commands.add_parser("verify", help="read every file and compare checksums")
    verify.add_argument("--remove", action="store_true", help="remove the damaged ones")
    commands.add_parser("clear", help="remove all files")
    given = parser.parse_args(arguments)
    try:
        if given.command == "clear":
            count, left = DISK.clear()
            return _removed(count, left, f" files from {folder_path()}")
        if given.command == "verify":
            return _verify(given.remove)
        stored = DISK.entries()
    except Unusable as error:
        print(f"not used: {error.reason}", file=sys.stderr)
        return 1
    for line in _rows(stored) if given.command == "list" else _info(stored):
        print(line)
    return 0


def _info(stored: Sequence[Stored]) -> list[str]:
    total = sum(s.size for s in stored)
    return [
        f"folder  {folder_path()}",
        f"files   {len(stored)}",
        f"size    {_bytes(total)} of {_bytes(size_limit())}",
    ]


def _rows(stored: Sequence[Stored]) -> list[str]:
    return [f"{s.key[:12]}  {_bytes(s.size):>10}  {_ago(s.used):>8}  {s.problem or s.about}" for s in stored]


def _verify(remove: bool) -> int:
    stored = DISK.entries(check=True)
    damaged = [s for s in stored if s.problem]
    for row in _rows(damaged):
        print(row)
    print(f"{len(stored)} files, {len(damaged)} damaged")
    if remove:
        return _removed(len(damaged), DISK.remove([s.key for s in damaged]), "")
    return 1 if damaged else 0


def _removed(count: int, left: Sequence[str], what: str) -> int:
    print(f"removed {count - len(left)}{what}")
    for line in left:
        print(f"not removed: {line}", file=sys.stderr)
    return 1 if left else 0


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.1f} GiB"


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < length:
            return f"{seconds:.0f} {unit}"
        seconds /= length
    return f"{seconds:.0f} d"


if __name__ == "__main__":
    sys.exit(main())
