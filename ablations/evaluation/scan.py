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
from numpy.typing import NDArray

from detnet_kernels.loader import BOOL, F64, I64, INT, U8, kernel

END = bytes(2)
"""Two, since a backslash and what it escapes are skipped together."""

SLICE = 2**22
"""Bytes of a file that are held at once where it need not be held as a whole."""

SHORTEST = len('{"image_id":1,"category_id":1,"bbox":[0,0,1,1],"score":1},')
"""Bytes of an entry at least, where it is a detection."""

_scan = kernel(
    "scan",
    *(U8, INT, INT, U8, I64, INT, INT, INT, INT),
    *(I64, F64, F64, I64, BOOL, BOOL, I64, I64, I64),
)
_count = kernel("count", U8, INT, INT, result=INT)
_copy_values = kernel("copy_values", U8, I64, INT, INT, U8, I64)


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
        data = np.frombuffer(self.buffer, np.uint8)
        given = np.ascontiguousarray(self.spans)
        _copy_values(data, given, len(given), len(END), text, spans)
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
        result = np.zeros(5, np.int64)
        _scan(
            data, start, self.num,
            np.frombuffer(b"".join(keys), np.uint8), np.cumsum([len(key) for key in keys]),
            len(self.integers), len(self.numbers), len(self.boxes), len(self.spans),
            self.whole, self.values, self.boxes, self.spans, self.written_whole, self.given,
            self._hard, np.zeros(len(keys) + 1, np.int64), result,
        )  # fmt: skip
        self.num, num_hard, end, is_whole, skipped = result.tolist()
        self.given[:, self.num : self.num + 1] = False  # of an entry that was read in part
        for row, column, at, behind in self._hard[:num_hard].tolist():
            value = float(bytes(data[at:behind]))
            if column < len(self.numbers):
                self.values[column, row] = value
            else:
                self.boxes[row, column - len(self.numbers)] = value
        return end, bool(is_whole), bool(skipped)

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
    table = _Table(integers, numbers, _count(data, len(data), ord("{")))
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
