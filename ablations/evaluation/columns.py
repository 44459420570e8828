"""COCO's lists of entries as typed columns; a value that is of no use is refused by name.

The lists of a file that is as it should be are read straight into arrays. Where that fails, the
file is read again as plain JSON, and the first wrong value is named.
"""

import gc
import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.faults import FormatError, shown
from ablations.evaluation.scan import END, Scanned, Stored, scan, scan_slices

Where = Callable[[int], str]
"""Names an entry by its position in the list: `truth.json: images[3]`."""

Entries = Sequence[Any] | Scanned
"""Objects as they were parsed, or columns that were read from the text."""

_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"PAR1": "a Parquet file; convert it to COCO's JSON",
    b"\x80": "a Python pickle; write it as JSON",
    b"<": "XML or HTML; give the JSON file",
    b"version ": "a Git LFS pointer; run 'git lfs pull'",
}

_ANNOTATION = ("image_id", "category_id", "bbox")
_RESULT = ("image_id", "category_id", "score")
"""What every entry has."""
_RESULT_COLUMNS = ("image_id", "category_id"), ("score",)
"""Whole numbers and others."""


class _Instances(msgspec.Struct):
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: msgspec.Raw


def take(values: Any, rows: NDArray[np.int64]) -> Any:
    """Some of the entries or values."""
    return values.take(rows) if hasattr(values, "take") else [values[row] for row in rows]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A large JSON file makes millions of objects, none of them garbage: 2.7 times faster."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_instances(path: Path) -> Any:
    """The content of a COCO instances file; FormatError where it is absent or not JSON."""
    return _read(path, _decode_instances)


def read_results(path: Path) -> Any:
    """The content of a COCO results file; FormatError where it is absent or not JSON."""
    plain = _scan_plain_results(path)
    return _read(path, _decode_results) if plain is None else plain


def _decode_instances(data: memoryview) -> Any:
    content = msgspec.structs.asdict(msgspec.json.decode(data[: -len(END)], type=_Instances))
    start = _address(content["annotations"]) - _address(data)
    scanned = scan(data, ("image_id", "category_id", "id"), ("area", "iscrowd"), start)
    if scanned is None or not all(scanned.given[key].all() for key in _ANNOTATION):
        return None
    segmentations = Stored(scanned.text, scanned.spans).alone()  # a good part of most files is more
    alone = replace(scanned, text=segmentations.buffer, spans=segmentations.spans)
    return content | {"annotations": alone}


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


def _scan_plain_results(path: Path) -> Scanned | None:
    """Results of nothing but numbers, most files of boxes; None for any other file."""
    with suppress(OSError), path.open("rb", buffering=0) as file:
        if not file.seekable():  # a pipe cannot be read again
            return None
        scanned = scan_slices(file, *_RESULT_COLUMNS)
        if scanned is not None and all(scanned.given[key].all() for key in _RESULT):
            return scanned
    return None


def _decode_results(data: memoryview) -> Any:
    scanned = scan(data, *_RESULT_COLUMNS)
    if scanned is None or not all(scanned.given[key].all() for key in _RESULT):
        return None
    return scanned


def _read_bytes(path: Path) -> memoryview:
    """The file, unpacked and as UTF-8, with END behind it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = np.empty(size + len(END), np.uint8).data
        num = file.readinto(data[:size])
        data[size:] = END
        rest = file.read()  # of a pipe, or a file that is being written
        if num < size or rest:
            data = memoryview(bytearray(bytes(data[:num]) + rest + END))
    start = bytes(data[:8])
    if not start.strip(END + b" \t\r\n") and not bytes(data[: -len(END)]).strip():
        raise ValueError("it is empty")
    if start.startswith(_GZIP):
        data = memoryview(bytearray(gzip.decompress(data[: -len(END)]) + END))
        start = bytes(data[:8])
    for mark, what in _FOREIGN.items():
        if start.startswith(mark):
            raise FormatError(f"{path}: not a readable JSON file: it is {what}")
    encoding = json.detect_encoding(start[:4])
    if encoding != "utf-8":
        text = bytes(data[: -len(END)]).decode(encoding)
        data = memoryview(bytearray(text.encode() + END))
    elif np.frombuffer(data, np.uint8).max() > 127:  # the scanner does not look at letters
        str(data, encoding)
    return data


def _read(path: Path, decode: Callable[[memoryview], Any]) -> Any:
    try:
        data = _read_bytes(path)
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            content = decode(data)
            if content is not None:
                return content
        # Unusual values, or what Python's own parser takes besides: NaN, numbers out of range.
        with no_garbage_collection():
            return json.loads(bytes(data[: -len(END)]))
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(
            f"{path}: not a readable JSON file ({error}); write or fetch it again"
        ) from None
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: not a readable JSON file (not valid JSON: its letters are not in "
            f"{error.encoding.upper()}, from byte {error.start} on); save it as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path}: not a readable JSON file (not valid JSON: {error}); write or fetch it again"
        ) from None


def entries_of(content: Any, key: str, name: str) -> Any:
    """A list of a COCO instances file, all its entries objects."""
    if not isinstance(content, Mapping):
        raise FormatError(
            f"{name}: the top level is not an object but a {type(content).__name__}; "
            "COCO instances are an object with images, annotations and categories"
        )
    entries = content.get(key)
    if isinstance(entries, Scanned):
        return entries
    if not isinstance(entries, list):
        found = f"is a {type(entries).__name__}" if key in content else "the list is absent"
        raise FormatError(f"{name}: {key}: {found}; give a COCO instances file")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FormatError(
                f"{name}: {key}[{index}]: is {shown(entry)}, is not an object; write it as one"
            )
    return entries


def stored(entries: Entries, key: str) -> Sequence[Any]:
    """A column of values of any shape, None where absent."""
    if isinstance(entries, Scanned):
        return Stored(entries.text, entries.spans)
    return [entry.get(key) for entry in entries]


def is_written_whole(entries: Entries, key: str) -> NDArray[np.bool_]:
    """Whether `bbox` (N, 4) or a number (N, 1) is 10 in the file, not 10.0; False where absent."""
    if isinstance(entries, Scanned):
        return entries.is_written_whole(key)
    is_box = key == "bbox"
    rows = [entry[key] if is_box else [entry.get(key)] for entry in entries]
    whole = [[type(value) is int for value in row] for row in rows]
    return np.array(whole, dtype=bool).reshape(len(rows), 4 if is_box else 1)


def has_value(entries: Entries, key: str) -> NDArray[np.bool_]:
    """Where a field is neither absent, null nor empty."""
    if isinstance(entries, Scanned):
        given = entries.given[key]
        if key == "segmentation":
            given = given & (entries.spans[:, 1] - entries.spans[:, 0] > len("[]"))
        return given
    values = [entry.get(key) for entry in entries]
    return np.array(
        [len(v) > 0 if isinstance(v, np.ndarray) else bool(v) for v in values], dtype=bool
    )


def values_of(entries: Entries, key: str, where: Where) -> Sequence[Any]:
    """A column as it is; FormatError where it is absent."""
    if isinstance(entries, Scanned):
        return entries.integers[key].tolist()
    return _values(entries, key, where)


def _values(entries: Sequence[Any], key: str, where: Where) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError):
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise FormatError(f"{where(index)}: is not an object") from None
            if key not in entry:
                raise FormatError(f"{where(index)}.{key}: is absent; write it") from None
        raise


def _refuse(
    where: Where, key: str, values: Sequence[Any], accept: Callable[[Any], bool], rule: str
) -> None:
    """Raise for the first value that is not accepted."""
    for index, value in enumerate(values):
        if not accept(value):
            raise FormatError(f"{where(index)}.{key}: {rule}, not {shown(value)}")


def _is_integer(value_type: type) -> bool:
    return issubclass(value_type, int | np.integer) and value_type is not bool


def is_number(value_type: type) -> bool:
    """Whether values of a type are numbers; True and False are none."""
    return _is_integer(value_type) or issubclass(value_type, float | np.floating)


def _is_whole(value: Any) -> bool:
    if _is_integer(type(value)):
        return True
    # From 2**53 on, a float no longer tells neighboring whole numbers apart.
    is_float = isinstance(value, float | np.floating)
    return is_float and float(value).is_integer() and abs(float(value)) < 2**53


def odd_ids(entries: Entries, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows have an id that is absent, 0, no whole number, or that of an earlier row."""
    if isinstance(entries, Scanned):
        ids = entries.integers["id"][rows]
        odd = ~entries.given["id"][rows] | (ids == 0)
        order = np.argsort(ids, kind="stable")
        odd[order[1:]] |= ids[order[1:]] == ids[order[:-1]]
        return odd
    odd = np.zeros(len(rows), dtype=bool)
    seen: set[Any] = set()
    for i, row in enumerate(rows.tolist()):
        value = entries[row].get("id")
        is_sound = type(value) is int or (type(value) is float and value.is_integer())
        odd[i] = not is_sound or value == 0 or value in seen
        if is_sound:
            seen.add(value)
    return odd


def whole_numbers(values: Sequence[Any], key: str, where: Where) -> NDArray[np.int64]:
    """Whole numbers; table tools write them as floats, so 1.0 is one."""
    if not all(map(_is_integer, set(map(type, values)))):
        _refuse(where, key, values, _is_whole, "must be a whole number")
        values = [int(value) for value in values]
    try:
        return np.fromiter(values, np.int64, len(values))
    except OverflowError:
        _refuse(where, key, values, lambda value: abs(value) < 2**63, "must fit into 64 bits")
        raise


def integers(entries: Entries, key: str, where: Where) -> NDArray[np.int64]:
    """A column of whole numbers that fit into 64 bits."""
    if isinstance(entries, Scanned):
        return entries.integers[key]
    return whole_numbers(_values(entries, key, where), key, where)


def flags(entries: Entries, key: str, where: Where) -> NDArray[np.bool_]:
    """A column of 0 and 1, or false and true; absent and null are 0."""
    if isinstance(entries, Scanned):
        values = entries.numbers[key]
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if len(wrong):
            index = int(wrong[0])
            raise FormatError(f"{where(index)}.{key}: {_FLAG}, not {values[index]:g}")
        return values == 1
    given = [entry.get(key) for entry in entries]
    given = [0 if value is None else value for value in given]
    _refuse(where, key, given, _is_flag, _FLAG)
    return np.fromiter(given, bool, len(given))


_FLAG = "must be 0, 1, true or false"


def _is_flag(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_) and value in (0, 1)


def _as_floats(values: Iterator[Any] | Sequence[Any], count: int) -> NDArray[np.float64]:
    """Numbers as float64; infinite where they are out of range."""
    values = values if isinstance(values, Sequence) else list(values)
    try:
        return np.fromiter(values, np.float64, count)
    except OverflowError:
        return np.array([_as_float(value) for value in values], dtype=np.float64)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _floats(values: Sequence[Any], key: str, where: Where) -> NDArray[np.float64]:
    """Numbers, which may be infinite or no number (NaN)."""
    if not all(map(is_number, set(map(type, values)))):
        _refuse(where, key, values, lambda v: is_number(type(v)), "must be a finite number")
    return _as_floats(values, len(values))


def optional_floats(
    entries: Entries, key: str, where: Where
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A column of numbers and where it is given; 0 where absent or null."""
    if isinstance(entries, Scanned):
        return entries.numbers[key], entries.given[key]
    values = [entry.get(key) for entry in entries]
    given = np.array([value is not None for value in values], dtype=bool)
    return _floats([0.0 if value is None else value for value in values], key, where), given


def numbers(entries: Entries, key: str, where: Where) -> NDArray[np.float64]:
    """A column of finite numbers."""
    if isinstance(entries, Scanned):
        found = entries.numbers[key]
    else:
        found = _floats(_values(entries, key, where), key, where)
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        index = int(wrong[0])
        raise FormatError(f"{where(index)}.{key}: must be a finite number, not {found[index]}")
    return found


BOX = "must be four finite numbers [x, y, width, height], width >= 0, height >= 0"


def boxes(entries: Entries, where: Where) -> NDArray[np.float64]:
    """(N, 4) boxes; their numbers may yet be infinite, no number (NaN) or negative."""
    if isinstance(entries, Scanned):
        return entries.boxes
    values = _values(entries, "bbox", where)
    plain = all(
        issubclass(value_type, list | tuple | np.ndarray) for value_type in set(map(type, values))
    )
    if not (
        plain
        and set(map(len, values)) <= {4}
        and all(map(is_number, set(map(type, chain.from_iterable(values)))))
    ):
        _refuse(where, "bbox", values, _has_four_numbers, BOX)
    return _as_floats(chain.from_iterable(values), 4 * len(values)).reshape(-1, 4)


def _has_four_numbers(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return False
    return all(is_number(type(side)) for side in value)


def unique_ids(
    entries: Sequence[Any], where: Where, name: Callable[[Any], str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted ids, and the position in the file of each; `name` tells two of one id apart."""
    ids = integers(entries, "id", where)
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(repeated):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        raise FormatError(
            f"{where(int(second))}.id: {ids[second]} stands there twice "
            f"({name(entries[first])} and {name(entries[second])}); give each an id of its own"
        )
    return ids[order], order


_MAX_TABLE = 2**20


def positions(
    ids: NDArray[np.int64], known_ids: NDArray[np.int64], dtype: type[Any] = np.int64
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The position of every id among the sorted known ones, and whether it is one of them."""
    if len(known_ids) and known_ids[0] >= 0 and known_ids[-1] < _MAX_TABLE:
        table = np.full(known_ids[-1] + 2, -1, dtype)  # much faster than searching
        table[known_ids] = np.arange(len(known_ids))
        # Negative ids are the largest of all as unsigned ones
        found = table[np.minimum(ids.view(np.uint64), np.uint64(len(table) - 1))]
        return found, found >= 0
    found = np.searchsorted(known_ids, ids).astype(dtype, copy=False)
    known = found < len(known_ids)
    known[known] = known_ids[found[known]] == ids[known]
    return found, known
