"""Polygons read and copied in their text: the same as by way of Python's objects."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ablations.evaluation.masks import survey
from ablations.evaluation.polygons import as_python_writes, survey_stored
from ablations.evaluation.scan import END, Stored

SQUARE = [[10, 10, 30.5, 10, 30.5, 30, 10, 30]]
number = st.one_of(
    st.integers(-(2**63), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-1000, 1000, places=2).map(float),
)
polygon = st.lists(st.decimals(-1000, 1000, places=2).map(float), min_size=1, max_size=12)
value = st.one_of(
    st.lists(polygon, max_size=3),
    st.lists(st.lists(number, max_size=9), max_size=3),
    st.none(),
    st.fixed_dictionaries({"size": st.lists(number), "counts": st.text() | st.lists(number)}),
)


def stored(texts: list[str]) -> Stored:
    """The values with a blank before each; '' is no value."""
    spans, end = np.zeros((len(texts), 2), np.int64), 0
    for span, text in zip(spans, texts, strict=True):
        end += 1 + len(text)
        span[:] = (end - len(text), end) if text else 0
    return Stored("".join(f" {text}" for text in texts).encode() + END, spans)


def is_plain(segmentation: Any) -> bool:
    return (
        isinstance(segmentation, list)
        and len(segmentation) > 0
        and all(
            isinstance(polygon, list) and len(polygon) >= 6 and not len(polygon) % 2
            for polygon in segmentation
        )
    )


@settings(deadline=None)
@given(st.lists(value), st.sampled_from([None, 1]), st.sampled_from([",", ", ", " , "]))
def test_values_are_copied_as_python_writes_them(
    values: list[Any], indent: int | None, comma: str
) -> None:
    texts = [json.dumps(value, indent=indent, separators=(comma, ":")) for value in values]
    expected = [json.dumps(value, sort_keys=True) for value in values]
    assert as_python_writes(stored(texts)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("-0", "-0.0", "0.0", "0.00", "1.50", "10.0", "0.001", "0.0001", "0.00001", "1e5", "1E-7"),
        *("123456789012345", "1234567890123456", "0.123456789012345678", "1e400", "-1e400"),
        *("702.1057499999998", "99999999999999999999", "1.0e2", "0.1e1", "100000000000000.5"),
        *("-0.001", "-0.5", "-12", "0"),
    ],
)
def test_a_number_is_copied_as_python_writes_it(text: str) -> None:
    for values in (f"[[{text}]]", f"[{text},1.5 , {text}]"):
        assert as_python_writes(stored([values])) == [json.dumps(json.loads(values))]


def test_no_value_is_null_and_empty_lists_stay() -> None:
    assert as_python_writes(stored(["", "[]", "[ [ ] ]", ""])) == ["null", "[]", "[[]]", "null"]


@settings(deadline=None)
@example([SQUARE, [[1, 2, 3, 4]], None, [*SQUARE, [1, 2, 3, 4, 5]], SQUARE + SQUARE])
@given(st.lists(value))
def test_plain_polygons_are_surveyed_as_their_lists_are(values: list[Any]) -> None:
    texts = ["" if value is None else json.dumps(value) for value in values]
    plain, found = survey_stored(stored(texts))
    expected = [i for i, each in enumerate(values) if is_plain(each)]
    assert set(plain.tolist()) <= set(expected)
    for column, wanted in zip(found, survey([values[i] for i in plain.tolist()]), strict=True):
        np.testing.assert_array_equal(column, wanted)
    usual = [i for i in expected if all(abs(x) < 2000 for polygon in values[i] for x in polygon)]
    two_places = [i for i in usual if json.loads(json.dumps(values[i])) == round_all(values[i])]
    assert set(two_places) <= set(plain.tolist())


def round_all(polygons: list[list[float]]) -> list[list[float]]:
    return [[round(x, 2) for x in polygon] for polygon in polygons]
