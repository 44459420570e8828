"""What image files hold, as hashes that are remembered between runs.

Hashing reads every byte: on one core about a gigabyte a second where the disk keeps up. So each
image folder has a small JSON file that remembers hashes by path, size and time of change. It lies
in the user's cache folder, or in the folder that the environment variable DETNET_CACHE names
(empty: nothing is remembered). Where it cannot be read or written, files are hashed again.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from ablations.progress import tracked

from .faults import DataError
from .threads import in_threads

CACHE_VARIABLE = "DETNET_CACHE"

SETTLED_NANOSECONDS = 2_000_000_000
"""A file that changed more lately may change again within one tick of its clock: as in git's
index, it is not remembered yet."""

Entry = tuple[int, int, str]
"""Size in bytes, time of change in nanoseconds, BLAKE2b as 32 hex digits."""


def read_contents(folder: Path, paths: list[Path]) -> list[tuple[int, str]]:
    """(size in bytes, BLAKE2b as 32 hex digits) of the files of one image folder.

    Raises DataError for a file that cannot be read.
    """
    cache = _cache_file(folder)
    entries = _load(cache)
    stamps = dict(zip(map(str, paths), in_threads(_stamp, paths), strict=True))
    unknown = [Path(path) for path, stamp in stamps.items() if entries.get(path, ())[:2] != stamp]
    hashes = tracked(in_threads(_hash, unknown), len(unknown), "image files hashed")
    for path, content in zip(unknown, hashes, strict=True):
        entries[str(path)] = (*stamps[str(path)], content)
    if unknown:
        _save(cache, entries)
    return [(entries[str(path)][0], entries[str(path)][2]) for path in paths]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_size, status.st_mtime_ns


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}): check the file and its rights")


def _cache_file(folder: Path) -> Path | None:
    place = os.environ.get(CACHE_VARIABLE)
    if place == "":
        return None
    name = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
    parent = Path(place).expanduser() if place else user_cache_path("detnet-ablations")
    return parent / "image-hashes" / f"{name}.json"


def _load(cache: Path | None) -> dict[str, Entry]:
    if cache is None:
        return {}
    try:
        content = json.loads(cache.read_bytes())
        return {path: (size, changed, digest) for path, (size, changed, digest) in content}
    except (OSError, ValueError, TypeError):
        return {}


def _save(cache: Path | None, entries: dict[str, Entry]) -> None:
    if cache is None:
        return
    latest = time.time_ns() - SETTLED_NANOSECONDS
    settled = [[path, entry] for path, entry in entries.items() if entry[1] < latest]
    part = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(settled))
        part.replace(cache)  # whole or not at all, whoever else writes it
    except OSError:
        with suppress(OSError):
            part.unlink()
