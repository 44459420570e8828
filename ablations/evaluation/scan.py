"""A JSON list of flat objects straight into arrays, for files of a million entries.

Decoding into Python objects and then into arrays takes most of the time of an evaluation. Here the
numbers are read from the text where they stand. Only the usual shape is read (numbers where
numbers are expected); for any other the answer is None, and the slower reader says what is wrong.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import SEEK_END, RawIOBase
from typing import Any

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

NONE, _INTEGER, _FLOAT, HARD = 0, 1, 2, 3
"""Whether a number stands there, and whether it was read or is left to Python."""

END = bytes(2)
"""Two, since a backslash and what it escapes are skipped together."""

SLICE = 2**22
"""Bytes of a file that are held at once where it need not be held as a whole."""

SHORTEST = len('{"image_id":1,"category_id":1,"bbox":[0,0,1,1],"score":1},')
"""Bytes of an entry at least, where it is a detection."""

_BIG = 2**53
_POWERS = 10.0 ** np.arange(23)
"""Exact in float64, all of them."""


@dataclass(frozen=True, eq=False)
class Scanned:
    """Columns of a list of objects.

    integers: key -> (N,) int64; numbers: key -> (N,) float64
    given: key -> (N,) whether an entry has it, `bbox` and `segmentation` included
    boxes: (N, 4); spans: (N, 2) where each segmentation starts and ends in `text`
    written_whole: (N, len(numbers) + 4) which of the numbers and box sides have no decimal point
    """

    text: Any

    integers: dict[str, NDArray[np.int64]]
    numbers: dict[str, NDArray[np.float64]]
    given: dict[str, NDArray[np.bool_]]
    boxes: NDArray[np.float64]
    spans: NDArray[np.int64]
    written_whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The whole numbers of one entry, which are what names it."""
        return {key: int(v[row]) for key, v in self.integers.items() if self.given[key][row]}

    def take(self, rows: NDArray[Any]) -> "Scanned":
        """Some of the entries."""
        return Scanned(
            text=self.text,
            integers={key: values[rows] for key, values in self.integers.items()},
            numbers={key: values[rows] for key, values in self.numbers.items()},
            given={key: values[rows] for key, values in self.given.items()},
            boxes=self.boxes[rows],
            spans=self.spans[rows],
            written_whole=self.written_whole[rows],
        )

    def is_written_whole(self, key: str) -> NDArray[np.bool_]:
        """Whether `bbox` (N, 4) or one of the numbers (N, 1) has no decimal point."""
        return self.written_whole[:, [each == key for each in [*self.numbers, *["bbox"] * 4]]]


class Stored(Sequence[Any]):
    """JSON values of a text, decoded when they are asked for; None where a span is empty.

    buffer: the text; spans: (N, 2) where each value starts and ends in it
    """

    def __init__(self, text: Any, spans: NDArray[np.int64]) -> None:
        self.buffer = memoryview(text)
        self.spans = spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Stored(self.buffer, self.spans[index])
        start, end = self.spans[index].tolist()
        text = self.buffer[start:end]
        try:
            return msgspec.json.decode(text) if end else None
        except msgspec.MsgspecError:  # Python's parser takes more: numbers out of range, say
            return json.loads(bytes(text))

    def take(self, rows: NDArray[Any]) -> "Stored":
        """Some of the values, undecoded."""
        return Stored(self.buffer, self.spans[rows])

    def alone(self) -> "Stored":
        """The same values in a text of their own."""
        num_bytes = int((self.spans[:, 1] - self.spans[:, 0] + len(END)).sum())
        text, spans = np.zeros(num_bytes, np.uint8), np.zeros(self.spans.shape, np.int64)
        _copy_values(np.frombuffer(self.buffer, np.uint8), self.spans, text, spans)
        return Stored(text.data, spans)


class _Table:
    """Columns with room for so many entries, that fill up while a text is read."""

    def __init__(
        self,
        integers: tuple[str, ...],
        numbers: tuple[str, ...],
        capacity: int,
        with_spans: bool = True,
    ) -> None:
        self.integers, self.numbers = integers, numbers
        self.keys = (*integers, *numbers, "bbox", "segmentation")
        self.num = 0
        self.whole = np.zeros((len(integers), capacity), np.int64)
        self.values = np.zeros((len(numbers), capacity), np.float64)
        self.boxes = np.zeros((capacity, 4))
        self.spans = np.zeros((capacity if with_spans else 0, 2), np.int64)
        self.written_whole = np.zeros((capacity, len(numbers) + 4), np.bool_)
        self.given = np.zeros((len(self.keys), capacity), np.bool_)
        self._hard = np.empty(((len(numbers) + 4) * capacity, 4), np.int64)

    def fill(self, data: NDArray[np.uint8], start: int) -> tuple[int, bool, bool]:
        """Add the entries of the list that starts at `start`.

        Returns the place behind the list, or where the first entry starts that cannot be read;
        whether it is the former; and whether values were skipped.
        """
        keys = [key.encode() for key in self.keys]
        self.num, num_hard, end, is_whole, skipped = _scan(
            start, self.num, data,
            np.frombuffer(b"".join(keys), np.uint8), np.cumsum([len(key) for key in keys]),
            self.whole, self.values, self.boxes, self.spans, self.written_whole, self.given,
            self._hard,
        )  # fmt: skip
        self.given[:, self.num : self.num + 1] = False  # of an entry that was read in part
        for row, column, at, behind in self._hard[:num_hard].tolist():
            value = float(bytes(data[at:behind]))
            if column < len(self.numbers):
                self.values[column, row] = value
            else:
                self.boxes[row, column - len(self.numbers)] = value
        return end, is_whole, skipped

    def scanned(self, text: Any) -> Scanned:
        num = self.num
        return Scanned(
            text=text,
            integers={key: self.whole[k, :num] for k, key in enumerate(self.integers)},
            numbers={key: self.values[k, :num] for k, key in enumerate(self.numbers)},
            given={key: self.given[k, :num] for k, key in enumerate(self.keys)},
            boxes=self.boxes[:num],
            spans=self.spans[:num],
            written_whole=self.written_whole[:num],
        )


def scan(
    text: Any, integers: tuple[str, ...], numbers: tuple[str, ...], start: int | None = None
) -> Scanned | None:
    """Read a list of objects with the named fields, `bbox` and `segmentation`.

    None where a value is not what its field should hold. Numbers are those of Python's `float`.
    `text` ends in END, which no loop runs past. What is skipped (fields not asked for,
    segmentations, null) makes the text to be parsed once more, for its syntax alone. With `start`
    the list starts there, and the text is known to be JSON.
    """
    data = np.frombuffer(text, np.uint8)
    table = _Table(integers, numbers, _count(data, ord("{")))
    end, is_whole, skipped = table.fill(data, start or 0)
    if not is_whole:
        return None
    if start is None and not (end == len(data) - len(END) and (not skipped or _is_json(text))):
        return None
    return table.scanned(text)


def scan_slices(
    file: RawIOBase, integers: tuple[str, ...], numbers: tuple[str, ...]
) -> Scanned | None:
    """As `scan`, of a file that is not held in memory.

    None also where anything is skipped, or where entries are too short for detections.
    """
    text = np.zeros(SLICE + len(END), np.uint8)
    # Room that is not filled costs no memory
    capacity = file.seek(0, SEEK_END) // SHORTEST + 1
    file.seek(0)
    table = _Table(integers, numbers, capacity, with_spans=False)
    left, is_whole = 0, False
    while num_read := file.readinto(text[left:SLICE].data):
        filled = left + num_read
        text[filled : filled + len(END)] = 0
        before = table.num
        end, is_whole, skipped = table.fill(text[: filled + len(END)], 0)
        if skipped or table.num == before or (is_whole and end < filled):
            return None
        # What is left is made a list of its own: an entry stands behind a bracket or a comma.
        left = filled - end + 1
        text[1:left] = text[end:filled]
        text[0] = ord("[")
    table.spans = np.broadcast_to(np.int64(0), (table.num, 2))
    return table.scanned(END) if is_whole else None


def _is_json(text: Any) -> bool:
    try:
        msgspec.json.decode(memoryview(text)[: -len(END)], type=msgspec.Raw)
    except msgspec.MsgspecError:
        return False
    return True


@njit(cache=True, nogil=True)
def _count(data, wanted):  # type: ignore[no-untyped-def]
    num = 0
    for c in data:
        num += c == wanted
    return num


@njit(cache=True, nogil=True)
def _copy_values(data, spans, text, new_spans):  # type: ignore[no-untyped-def]
    """Copy the values of these spans, END behind each."""
    num = 0
    for i in range(len(spans)):
        start, end = spans[i]
        if end > start:
            new_spans[i, 0], new_spans[i, 1] = num, num + end - start
            for at in range(start, end):
                text[num] = data[at]
                num += 1
        num += len(END)


@njit(cache=True, nogil=True)
def _scan(  # type: ignore[no-untyped-def]
    at, row, data, keys, key_ends, whole, values, boxes, spans, written_whole, given, hard
):
    """Fill the columns from a row on; `spans` where there is room.

    Returns the number of rows, the number of numbers left to Python, where the list ends or the
    first entry that cannot be read starts, which of the two it is, and whether values were skipped.
    Of the numbers left to Python, `hard` has row, column (of `values`, then of `boxes`), start and
    end. A place is left only when its character is known not to be the final 0.
    """
    num_hard, skipped = 0, False
    num_keys = len(key_ends)
    num_whole, num_values = len(whole), len(values)
    at = blank(data, at)
    bad = row, num_hard, at, False, skipped
    follows = np.zeros(num_keys + 1, np.int64)  # the last key seen after each, and at the start
    if data[at] != ord("["):
        return bad
    at = blank(data, at + 1)
    more = data[at] != ord("]")
    while more:
        bad = row, num_hard, at, False, skipped
        if data[at] != ord("{") or row == len(boxes):
            return bad
        at = blank(data, at + 1)
        place = 0
        inside = data[at] != ord("}")
        while inside:
            if data[at] != ord('"'):
                return bad
            at += 1
            key = follows[place]
            end = _end_of_key(data, at, keys, key_ends, key)
            if end == 0:
                end = at
                while data[end] != ord('"'):
                    if data[end] == ord("\\") or data[end] < 32:
                        return bad
                    end += 1
                key = _find_key(data, at, end, keys, key_ends)
            at = blank(data, end + 1)
            if data[at] != ord(":"):
                return bad
            at = blank(data, at + 1)
            start = at
            if key < 0:
                at = _skip(data, at)
                skipped = True
            else:
                follows[place] = key
                place = key + 1
                if given[key, row]:
                    return bad  # twice in one entry
                if key == num_keys - 1:
                    at = _skip(data, at)
                    skipped = True
                    if data[start] != ord("n"):
                        given[key, row] = True
                        if len(spans) > 0:
                            spans[row, 0], spans[row, 1] = start, at
                elif key == num_keys - 2:
                    if data[at] != ord("["):
                        return bad
                    for side in range(4):
                        start = blank(data, at + 1)
                        at, found, integer, value = number(data, start)
                        if found == NONE:
                            return bad
                        boxes[row, side] = value
                        written_whole[row, num_values + side] = found == _INTEGER
                        if found == HARD:
                            hard[num_hard, 0], hard[num_hard, 1] = row, num_values + side
                            hard[num_hard, 2], hard[num_hard, 3] = start, at
                            num_hard += 1
                        at = blank(data, at)
                        if data[at] != (ord("]") if side == 3 else ord(",")):
                            return bad
                    at += 1
                    given[key, row] = True
                elif data[at] == ord("n"):
                    at = _skip(data, at)
                    skipped = True
                else:
                    at, found, integer, value = number(data, at)
                    if found == NONE:
                        return bad
                    given[key, row] = True
                    if key < num_whole:
                        if found != _INTEGER:
                            return bad
                        whole[key, row] = integer
                    else:
                        values[key - num_whole, row] = value
                        written_whole[row, key - num_whole] = found == _INTEGER
                        if found == HARD:
                            hard[num_hard, 0], hard[num_hard, 1] = row, key - num_whole
                            hard[num_hard, 2], hard[num_hard, 3] = start, at
                            num_hard += 1
            at = blank(data, at)
            inside = data[at] == ord(",")
            if inside:
                at = blank(data, at + 1)
            elif data[at] != ord("}"):
                return bad
        row += 1
        at = blank(data, at + 1)
        more = data[at] == ord(",")
        if more:
            at = blank(data, at + 1)
        elif data[at] != ord("]"):
            return bad
    return row, num_hard, blank(data, at + 1), True, skipped


@njit(cache=True, nogil=True, inline="always")
def blank(data, at):  # type: ignore[no-untyped-def]
    """The next place that is no white space."""
    while data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9:
        at += 1
    return at


@njit(cache=True, nogil=True, inline="always")
def _end_of_key(data, at, keys, key_ends, key):  # type: ignore[no-untyped-def]
    """Where this key ends if it stands here, else 0."""
    first = key_ends[key - 1] if key else 0
    for k in range(first, key_ends[key]):
        if data[at] != keys[k]:
            return 0
        at += 1
    return at if data[at] == ord('"') else 0


@njit(cache=True, nogil=True)
def _find_key(data, start, end, keys, key_ends):  # type: ignore[no-untyped-def]
    """Which key stands between start and end."""
    for key in range(len(key_ends)):
        if _end_of_key(data, start, keys, key_ends, key) == end:
            return key
    return -1


@njit(cache=True, nogil=True)
def _skip(data, at):  # type: ignore[no-untyped-def]
    """The place behind a value of any type."""
    depth = 0
    while data[at] != 0:
        c = data[at]
        if c == ord('"'):
            at += 1
            while data[at] != ord('"') and data[at] != 0:
                at += 2 if data[at] == ord("\\") else 1
        elif c == ord("[") or c == ord("{"):
            depth += 1
        elif c == ord("]") or c == ord("}"):
            if depth == 0:
                return at  # behind a bare number
            depth -= 1
        elif depth == 0 and c == ord(","):
            return at
        at += 1
        if depth == 0 and (c == ord('"') or c == ord("]") or c == ord("}")):
            return at
    return at


@njit(cache=True, nogil=True, inline="always")
def number(data, at):  # type: ignore[no-untyped-def]
    """Where a number ends, what it is, and it as a whole number and as a float."""
    negative = data[at] == ord("-")
    if negative:
        at += 1
    start = at
    found, exponent, digits = _INTEGER, 0, np.int64(0)
    c = data[at]
    while ord("0") <= c <= ord("9"):
        digits = 10 * digits + np.int64(c - ord("0"))
        at += 1
        c = data[at]
    if at == start or (data[start] == ord("0") and at > start + 1):
        return at, NONE, np.int64(0), 0.0
    num_digits = at - start
    if c == ord("."):
        found = _FLOAT
        at += 1
        point = at
        c = data[at]
        while ord("0") <= c <= ord("9"):
            digits = 10 * digits + np.int64(c - ord("0"))
            at += 1
            c = data[at]
        if at == point:
            return at, NONE, np.int64(0), 0.0
        exponent = point - at
        num_digits -= exponent
    if num_digits > 18:  # leading zeros are none
        while num_digits > 18 and (data[start] == ord("0") or data[start] == ord(".")):
            num_digits -= data[start] == ord("0")
            start += 1
    if c == ord("e") or c == ord("E"):
        found = _FLOAT
        at += 1
        sign = -1 if data[at] == ord("-") else 1
        at += data[at] == ord("-") or data[at] == ord("+")
        written, point = 0, at
        while ord("0") <= data[at] <= ord("9"):
            written = min(10 * written + (data[at] - ord("0")), 9999)
            at += 1
        if at == point:
            return at, NONE, np.int64(0), 0.0
        exponent += sign * written
    if num_digits > 18 or not -len(_POWERS) < exponent <= 0:
        return at, HARD, np.int64(0), 0.0
    integer = -digits if negative else digits
    power = _POWERS[-exponent]
    # A quotient of two exact numbers is rounded once.
    value = digits / power if digits < _BIG or found == _INTEGER else _divide(digits, power)
    return at, HARD if value < 0 else found, integer, -value if negative else value


@njit(cache=True, nogil=True)
def _divide(digits, power):  # type: ignore[no-untyped-def]
    """digits / power rounded once, for digits that float64 does not hold; -1 where in doubt.

    The quotient of the rounded digits, and what it lacks, found with exact products (Dekker 1971).
    """
    high = float(digits)
    low = float(digits - np.int64(high))
    quotient = high / power
    product = quotient * power
    quotient_1 = quotient * 134217729.0
    quotient_1 = quotient_1 - (quotient_1 - quotient)
    quotient_2 = quotient - quotient_1
    power_1 = power * 134217729.0
    power_1 = power_1 - (power_1 - power)
    power_2 = power - power_1
    error = (
        (quotient_1 * power_1 - product) + quotient_1 * power_2 + quotient_2 * power_1
    ) + quotient_2 * power_2
    lacking = ((high - product) - error + low) / power
    value = quotient + lacking
    rounded_off = (quotient - value) + lacking
    half = abs(np.spacing(value)) / 2
    if abs(abs(rounded_off) - half) <= 1e-9 * half:
        return -1.0
    return value
