"""What a table shows, in sentences made of its own numbers."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.frames import NOISE, REAL, mean_and_deviation
from analysis.pages.numbers import difference_text, points
from analysis.runs import Table

_SCALES = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


def findings(table: Table, differences: pd.DataFrame) -> str:
    """One paragraph on the table's boxes; `differences` is `AgainstBaseline.metrics`."""
    baseline = table.baseline
    if baseline is None:
        return ""
    scales = ", ".join(
        f"{points(mean_and_deviation(baseline.values(name))[0])} on {scale} objects"
        for name, scale in _SCALES.items()
    )
    ap, _ = mean_and_deviation(baseline.values("AP"))
    told = [f"{baseline.name} reaches an AP of {points(ap)} ({scales})."]
    of_ap = differences[differences.metric == "AP"]
    real, noise = of_ap[of_ap["mark"] == REAL], of_ap[of_ap["mark"] == NOISE]
    for row in real.to_dict("records"):
        sign = "above" if row["difference"] > 0 else "below"
        told.append(
            f"{row['variant']} stands {sign} it: {_difference(row)}{_where(row, differences)}."
        )
    if len(noise):
        names = [str(name) for name in noise["variant"]]
        verb = "is" if len(names) == 1 else "are"
        told.append(
            f"{_listed(names)} {verb} not told apart from it by these runs, which does not show "
            "that they are equal."
        )
    return " ".join(told)


def _difference(row: Mapping[Hashable, Any]) -> str:
    return difference_text(row["difference"], row["low"], row["high"], row["mark"])


def _where(row: Mapping[Hashable, Any], differences: pd.DataFrame) -> str:
    """On which scales the difference is real too."""
    of_variant = differences[
        (differences.variant == row["variant"]) & (differences["mark"] == REAL)
    ]
    scales = [scale for name, scale in _SCALES.items() if name in set(of_variant.metric)]
    return f", also on {_listed(scales)} objects alone" if scales else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
