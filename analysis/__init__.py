"""From records and detections to tables, pictures and statements about differences.

In a notebook:

    import analysis
    table = analysis.load("runs").table("small")
    table.summary()
    table.differences()
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations.evaluation.matching import COCO_AREAS, COCO_IOUS, match
from ablations.evaluation.scoring import cells as cells_of
from ablations.evaluation.scoring import score
from ablations.record import Run
from analysis import frames
from analysis.baseline import AgainstBaseline, compare_to_baseline
from analysis.bootstrap import NotComparableError, compare
from analysis.detection_errors import find_errors
from analysis.entries import area_bins
from analysis.matched import MatchedRuns, has_detections
from analysis.pages.sections import Section, section_of
from analysis.pages.tabular import Tabular
from analysis.published import beside
from analysis.runs import ReportError, Table, collect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "NotComparableError",
    "ReportError",
    "Results",
    "TableResults",
    "compare",
    "find_errors",
    "load",
]


def load(
    runs_folder: Path | str, *, baseline: str | None = None, ignore_tables: bool = False
) -> "Results":
    """What a runs folder holds. Raises ReportError or RecordError, which names the file or runs.

    `baseline` names the variant that others are compared with, instead of the table's own;
    `ignore_tables` puts runs over the same data and protocol together, whatever tables are noted.
    """
    faults = list[str]()
    return Results(collect(Path(runs_folder), baseline, ignore_tables, faults), faults)


class Results:
    """The tables of a runs folder, by name."""

    def __init__(self, tables: list[Table], unreadable: Sequence[str] = ()) -> None:
        self.unreadable = tuple(unreadable)
        """The files that were left out, and why."""
        matched = MatchedRuns()
        self._tables = {table.name: TableResults(table, matched) for table in tables}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tables)

    def table(self, name: str | None = None) -> "TableResults":
        """The table of this name; without one, the only table there is. Raises KeyError."""
        if name is None and len(self._tables) == 1:
            name = self.names[0]
        if name not in self._tables:
            raise KeyError(f"table {name!r}: there are {', '.join(self.names)}; name one of them")
        return self._tables[name]


class TableResults:
    """The numbers of one table as frames, in full precision: fractions, not percent points."""

    def __init__(self, table: Table, matched: MatchedRuns) -> None:
        self._table, self._matched = table, matched
        self._compared: dict[int, AgainstBaseline] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self._table.variants)

    @property
    def absent(self) -> tuple[str, ...]:
        """What failed or is missing, and why."""
        return tuple(map(str, self._table.absent))

    def summary(self) -> pd.DataFrame:
        """A row per variant: metrics with their spread over seeds, cost, speed, counts."""
        return frames.summary(self._table)

    def cells(self) -> pd.DataFrame:
        """A row per variant and cell of AP and AR."""
        return frames.cells(self._table)

    def scores(
        self,
        *,
        sides: Sequence[float] | None = None,
        iou_thresholds: Sequence[float] = tuple(COCO_IOUS),
        iou_type: str = "bbox",
    ) -> pd.DataFrame:
        """As `cells`, scored anew from stored detections at other IoU thresholds and object scales.

        `sides` are those of squares in pixels, 0, 16, 32, inf say, as `entries.area_bins` has them;
        None takes COCO's scales. Variants whose detections are gone are left out.
        """
        scales = COCO_AREAS if sides is None else {"all": COCO_AREAS["all"], **area_bins(sides)}

        def cells(run: Run) -> dict[str, Any]:
            truth, detections = self._matched.read(run)
            return cells_of(score(match(truth, detections, iou_type, iou_thresholds, scales)))

        return frames.cell_frame(
            {
                variant.name: [{iou_type: cells(run)} for run in variant.runs]
                for variant in self._table.variants
                if all(map(has_detections, variant.runs))
            }
        )

    def differences(self, num_resamples: int = 1000) -> pd.DataFrame:
        """A row per variant and metric: its difference to the baseline, interval, p and mark.

        The mark is `*` where the difference is real and `~` where it is below the noise, both after
        correction over the whole table; it is empty where the detections are gone.
        """
        return self._compare(num_resamples).metrics

    def cell_differences(self, num_resamples: int = 1000) -> pd.DataFrame:
        """A row per variant and cell of AP and AR, as `differences`."""
        return self._compare(num_resamples).cells

    def _compare(self, num_resamples: int) -> AgainstBaseline:
        if num_resamples not in self._compared:
            found = compare_to_baseline(self._table, self._matched, num_resamples)
            self._compared[num_resamples] = found
        return self._compared[num_resamples]

    def tabular(self, name: str = "", num_resamples: int = 1000) -> Tabular:
        """A table of the report as text, which a notebook shows; raises KeyError.

        "" is the main one; others are differences, published, categories, errors, costs ...
        """
        tabulars = self._section(num_resamples).tabulars
        if name not in tabulars:
            raise KeyError(f"tabular {name!r}: there are {', '.join(filter(None, tabulars))}")
        return tabulars[name]

    def figure(self, name: str, num_resamples: int = 1000) -> "Figure":
        """A figure of the report: ap-by-scale, ap-by-iou-and-scale, ap-against-macs ...

        Raises KeyError for one that this table does not have.
        """
        from analysis.pages.pictures import figure  # and with it matplotlib

        return figure(self._section(num_resamples), name)

    def findings(self, num_resamples: int = 1000) -> str:
        """What the table shows, in sentences made of its numbers."""
        return self._section(num_resamples).findings

    def _section(self, num_resamples: int) -> Section:
        return section_of(self._table, self._compare(num_resamples))

    def errors(self, iou_type: str = "bbox") -> pd.DataFrame:
        """A row per variant, scale and error type: what fixing all such errors would gain."""
        return self._compare(0).gains.get(iou_type, pd.DataFrame())

    def categories(self, num_resamples: int = 1000, iou_type: str = "bbox") -> pd.DataFrame:
        """A row per variant and category: AP, objects, and the difference to the baseline."""
        return self._compare(num_resamples).categories.get(iou_type, pd.DataFrame())

    def published(self) -> pd.DataFrame:
        """What is published, in percent points: a row per source.

        Of the paper's table that this one names as `published`, else of the table's variants.
        """
        return beside(self.variants, self._table.published)
