"""Files that are whole or absent, and folders that one process at a time works in."""

import errno
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class StorageError(OSError):
    """A file cannot be read or written; the message names it and the remedy."""


class HeldElsewhereError(RuntimeError):
    """Another process is at work in a folder; the message names it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path and put what was written there in place of `path` in one step.

    A reader, or a kill, sees the old file or the new, never half. The temporary has one name, so
    that what a kill leaves is overwritten: hold the folder (`held`) while writing. Raises
    StorageError.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}): free space or give write "
            "access, or choose another job.runs"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` in one step; raises StorageError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON in one step; a number that is not finite is a ValueError."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_json_gz(path: Path, value: Any) -> None:
    """Write gzipped JSON in one step; the same content is the same file."""
    write_atomically(path, gzip.compress(json.dumps(value).encode(), compresslevel=6, mtime=0))


def read_json_gz(path: Path) -> Any:
    """The content of a gzipped JSON file; raises StorageError that names it."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise StorageError(f"{path}: not readable as gzipped JSON ({error})") from error


def set_aside(path: Path) -> Path:
    """Rename a file that is no longer usable, so that nothing is lost and nothing reads it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def check_out(out: Path) -> None:
    """Raise StorageError where the folder that --out names is a file or lies in one."""
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir():
        raise StorageError(f"--out {out}: {there} is a file; name a folder")


@contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; raises HeldElsewhereError when another process holds it.

    The lock is the system's own (flock), which shared file systems keep for all machines and end
    with the process that holds it, so a killed one leaves none behind. `wait` waits instead.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A lock that is a mere file outlives a process that is killed
        lock = FileLock(folder / ".lock", fallback_to_soft=False)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise HeldElsewhereError(f"{folder}: another process is at work on this run") from None
    except OSError as error:
        remedy = "choose another job.runs, or give write access"
        if error.errno == errno.ENOSYS:
            remedy = (
                "its file system has no locks: choose another, or mount it with them (-o flock)"
            )
        raise StorageError(
            f"{folder}: cannot be used ({error.strerror or error}): {remedy}"
        ) from error
    try:
        yield
    finally:
        lock.release()
