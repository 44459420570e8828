"""Lists of objects read straight into arrays: what Python's parser reads, or nothing."""

import io
import json
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ablations.evaluation import scan as scan_module
from ablations.evaluation.scan import END, Scanned, Stored, scan, scan_slices


def scanned(text: str | bytes) -> Scanned | None:
    data = text.encode() if isinstance(text, str) else text
    return scan(data + END, ("image_id", "id"), ("score",))


def scanned_in_slices(text: str | bytes, num_bytes: int) -> Scanned | None:
    data = text.encode() if isinstance(text, str) else text
    with mock.patch.multiple(scan_module, SLICE=num_bytes, SHORTEST=len("{},")):
        return scan_slices(io.BytesIO(data), ("image_id", "id"), ("score",))


def check(found: Scanned, entries: list[dict[str, Any]]) -> None:
    """Every column is what is in the entries."""
    assert len(found) == len(entries)
    for key, column in (found.integers | found.numbers).items():
        for value, is_given, entry in zip(
            column.tolist(), found.given[key].tolist(), entries, strict=True
        ):
            assert is_given == (entry.get(key) is not None)
            assert not is_given or value == entry[key]
    for box, is_given, entry in zip(found.boxes, found.given["bbox"], entries, strict=True):
        assert is_given == ("bbox" in entry)
        assert not is_given or box.tolist() == entry["bbox"]
    if found.given["bbox"].all():
        whole = [[type(side) is int for side in entry["bbox"]] for entry in entries]
        assert found.is_written_whole("bbox").tolist() == whole
    whole = [[type(entry.get("score")) is int] for entry in entries]
    assert found.is_written_whole("score").tolist() == whole
    values = list(Stored(found.text, found.spans))
    assert values == [entry.get("segmentation") for entry in entries]


floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1000),
    st.floats(0, 1000, width=32),
    st.integers(-(2**53), 2**53),
    st.decimals(-1000, 1000, places=2).map(float),
)
entries = st.fixed_dictionaries(
    {"image_id": st.integers(-(2**59), 2**59), "bbox": st.lists(floats, min_size=4, max_size=4)},
    optional={
        "score": st.one_of(floats, st.none()),
        "id": st.integers(0, 10),
        "segmentation": st.recursive(
            st.one_of(st.none(), st.text(), floats),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        "caption": st.text(),
        "attributes": st.lists(st.dictionaries(st.text(), st.booleans())),
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(entries, max_size=4), st.sampled_from([None, 0, 2]), st.booleans())
def test_every_number_is_that_of_pythons_parser(
    values: list[dict[str, Any]], indent: int | None, is_ascii: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii)
    found = scanned(text)
    assert found is not None
    check(found, values)


@settings(max_examples=500, deadline=None)
@given(st.floats(1e-300, 1e300), st.integers(1, 25))
@example(9007199254740993.0, 17)
@example(0.1 + 0.2, 17)
def test_numbers_of_any_length_are_rounded_as_by_python(value: float, num_digits: int) -> None:
    for written in (f"{value:.{num_digits}g}", f"{value:.{num_digits}e}", f"{value:.22f}"):
        found = scanned(f'[{{"score": {written}}}]')
        assert found is not None
        assert found.numbers["score"][0] == float(written)


def test_numbers_halfway_between_two_floats_are_rounded_as_by_python() -> None:
    """The hardest to round: 2**53 + 1 and its like, exactly and a little off."""
    for k in range(1, 400):
        middle = (2**53 + 2 * k + 1) * 10**3
        for number in (middle - 1, middle, middle + 1):
            written = f"{str(number)[:-3]}.{str(number)[-3:]}"[:19]
            found = scanned(f'[{{"score": {written}}}]')
            assert found is not None
            assert found.numbers["score"][0] == float(written)


GOOD = b'[{"image_id": 12, "bbox": [1.5, 2, 3e0, 4], "score": 0.5, "x": ["a\\"", {}]}, {"id": 7}]'


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_what_is_no_json_is_never_read(data: st.DataObject) -> None:
    """Damaged at random, a text is read as Python's parser reads it, or not at all."""
    text = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        what = data.draw(st.sampled_from(b'[]{}",:0123456789.-+eE \\\\n\x00\x01\xff'))
        if data.draw(st.booleans()):
            text[place] = what
        else:
            del text[place : place + data.draw(st.integers(1, 4))]
            text = text or bytearray(b" ")
    found = scanned(bytes(text))
    if found is not None:
        # What is skipped may be no UTF-8.
        check(found, json.loads(text.decode(errors="replace")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[",
        "]",
        "[]]",
        "[{}",
        "[{},]",
        "[{} {}]",
        '[{"score"}]',
        '[{"score":}]',
        '[{"score":1,}]',
        '[{"score":1 "id":2}]',
        '[{"score":01}]',
        '[{"score":1.}]',
        '[{"score":.5}]',
        '[{"score":1e}]',
        '[{"score":+1}]',
        '[{"score":-}]',
        '[{"score":nul}]',
        '[{"score":NaN}]',
        '[{"score":"1"}]',
        '[{"score":true}]',
        '[{"image_id":1.0}]',
        '[{"image_id":9223372036854775808}]',
        '[{"bbox":[1,2,3]}]',
        '[{"bbox":[1,2,3,4,5]}]',
        '[{"bbox":[1,2,3,"4"]}]',
        '[{"bbox":[1,2,3,4}]',
        '[{"bbox":[1,2,3,4]',
        '[{"score":1,"score":2}]',
        '[{"x":[}]',
        '[{"x":"a',
        '[{"x":"a\\',
        '[{"segmentation":[1,2}]',
        "[1]",
        '{"score":1}',
        "[{}]\0",
    ],
)
def test_any_other_shape_is_left_to_the_slower_reader(text: str) -> None:
    assert scanned(text) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"image_id": st.integers(-(2**59), 2**59)},
            optional={"score": floats, "bbox": st.lists(floats, min_size=4, max_size=4)},
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([None, 0, 2]),
    st.integers(300, 900),
)
def test_a_file_in_slices_is_read_as_its_whole_text(
    values: list[dict[str, Any]], indent: int | None, num_bytes: int
) -> None:
    found = scanned_in_slices(json.dumps(values, indent=indent), num_bytes)
    assert found is not None
    check(found, values)
    if all("bbox" in each for each in values):
        check(found.take(np.arange(len(values))[::-1]), values[::-1])


PLAIN = b'[{"image_id": 12, "bbox": [1.5, 2, 3e0, 4], "score": 0.5}, {"id": 7}, {"score": 1e99}]\n'


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_what_is_no_json_is_never_read_in_slices(data: st.DataObject) -> None:
    text = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b",", b"]", b"[", b"{}", b"},", b" ", b"\0", b"\xff"])
        )
        text = text or bytearray(b" ")
    found = scanned_in_slices(bytes(text), data.draw(st.integers(60, 100)))
    if found is not None:
        check(found, json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '[{"id":1},]',
        '[{"id":1}] ]',
        '[{"id":1}]    {}',
        '[{"id":1,"x":2}]',
        '[{"id":1,"score":null}]',
        '[{"id":1,"segmentation":[]}]',
        f'[{{"id":{"1" * 17},"score":{"1" * 17}}}]',
    ],
)
def test_anything_but_numbers_is_not_read_in_slices(text: str) -> None:
    assert all(scanned_in_slices(text, num_bytes) is None for num_bytes in (10, 11, 16, 20))


def test_segmentations_stand_alone_without_the_rest_of_the_text() -> None:
    given = [[[1, 2.5]], None, {"counts": 'a]"b', "size": [3, 4]}, [], "x" * 50]
    found = scanned(json.dumps([{"score": 0.5, "segmentation": each} for each in given]))
    assert found is not None
    alone = Stored(found.text, found.spans).take(np.array([3, 1, 2, 0, 4])).alone()
    assert list(alone) == [given[k] for k in (3, 1, 2, 0, 4)]
    assert list(alone[1:4].alone()) == [given[k] for k in (1, 2, 0)]
    assert len(alone.buffer) < 130 < len(found.text)


def test_an_empty_list_has_no_entries() -> None:
    found = scanned(" [ ] ")
    assert found is not None
    assert len(found) == 0


def test_numbers_out_of_range_are_infinite() -> None:
    found = scanned('[{"score": 1e999}]')
    assert found is not None
    assert math.isinf(found.numbers["score"][0])


def test_some_entries_are_taken_with_all_their_columns() -> None:
    values = [
        {"image_id": k, "bbox": [k, 1.5, 2, 3], "score": k, "segmentation": [[k]]} for k in range(5)
    ]
    found = scanned(json.dumps(values))
    assert found is not None
    check(found.take(np.array([3, 1])), [values[3], values[1]])
