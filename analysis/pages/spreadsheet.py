"""Frames as CSV files that are safe to open in a spreadsheet."""

from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

_FORMULA = ("=", "+", "-", "@", "\t")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame; a text that a spreadsheet would take for a formula gets a `'` in front.

    Numbers stay as they are, negative ones too.
    """
    safe = frame.apply(lambda column: column if is_numeric_dtype(column) else column.map(_as_text))
    safe.rename(columns=_as_text).to_csv(path, index=False)


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
