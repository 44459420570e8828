"""What a table shows, in sentences made of its own numbers."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ablations.evaluation.metrics import METRICS
from analysis.frames import NOISE, REAL, by_variant_and_metric, mean_and_deviation
from analysis.pages.numbers import difference_text, points
from analysis.runs import Table

Row = Mapping[Hashable, Any]
"""A row of `AgainstBaseline.metrics`."""
_SCALES = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


def findings(table: Table, differences: pd.DataFrame) -> str:
    """One paragraph on the table's boxes, or on its classifications' top-1 errors.

    `differences` is `AgainstBaseline.metrics`.
    """
    baseline = table.baseline
    if baseline is None:
        return ""

    def value(name: str) -> str:
        return points(mean_and_deviation(baseline.values(name))[0])

    first = METRICS[table.metrics[0]]
    if table.classifies:
        quantity = first.label
        told = [f"{baseline.name} has a {quantity} of {value(first.name)}."]
    else:
        quantity = "AP over all objects"
        scales = ", ".join(f"{value(name)} on {scale} objects" for name, scale in _SCALES.items())
        told = [f"{baseline.name} reaches an AP of {value(first.name)} ({scales})."]
    of_first = differences[differences.metric == first.name]
    real = by_variant_and_metric(differences[differences["mark"] == REAL])
    for row in of_first[of_first["mark"] == REAL].to_dict("records"):
        also = [scale for scale, _ in _real_scales(row, real)]
        where = f", also on {_listed(also)} objects alone" if also else ""
        told.append(f"{row['variant']} stands {_side(row)} it: {_difference(row)}{where}.")
    noise = of_first[of_first["mark"] == NOISE].to_dict("records")
    if noise:
        names = [str(row["variant"]) for row in noise]
        verb = "is" if len(names) == 1 else "are"
        told.append(
            f"{_listed(names)} {verb} not told apart from it by these runs in {quantity}, which "
            "does not show that they are equal."
        )
    for row in noise:
        for scale, of_scale in _real_scales(row, real):
            told.append(
                f"On {scale} objects alone {row['variant']} stands {_side(of_scale)} it: "
                f"{_difference(of_scale)}."
            )
    return " ".join(told)


def _side(row: Row) -> str:
    return "above" if row["difference"] > 0 else "below"


def _difference(row: Row) -> str:
    return difference_text(row["difference"], row["low"], row["high"], row["mark"])


def _real_scales(row: Row, real: Mapping[tuple[str, str], Row]) -> list[tuple[str, Row]]:
    """The scales on which the row's variant differs really."""
    keys = {scale: (str(row["variant"]), name) for name, scale in _SCALES.items()}
    return [(scale, real[key]) for scale, key in keys.items() if key in real]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
