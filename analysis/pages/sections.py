"""What the report says: of each table its numbers and pictures, then how to read them, and runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ablations.evaluation.metrics import PREFIXES, table_metrics
from ablations.record import Run
from analysis import frames
from analysis.baseline import AgainstBaseline, compare_to_baseline
from analysis.bootstrap import MARK_TEXT, MIN_IMAGES
from analysis.costs import DRAWN, circumstances
from analysis.frames import NOISE, REAL
from analysis.matched import MatchedRuns, Tell
from analysis.pages import tables
from analysis.pages.blocks import Block, Bullets, Code, Heading, Paragraph, Picture
from analysis.pages.findings import findings
from analysis.pages.published import published_tabulars
from analysis.pages.tabular import Tabular
from analysis.runs import Table, outside, protocol_name

HOW_TO_READ = (
    "Δ is the variant minus the baseline in percent points, both scored on the same images.",
    "[low, high] is a 95 % interval of that difference, from resamples of the validation images, "
    "the same for both. Where both have several seeds, it also covers the noise of training.",
    f"{REAL} marks a difference that is real: it stays after correction for all variants and "
    "columns of its table together (AP, categories and errors, boxes and masks are families of "
    "their own), and "
    f"at least {MIN_IMAGES} images have such objects.",
    f"{NOISE} marks a difference below the noise, or one on too few images: these runs do not tell "
    "the two apart, which does not show that they are equal.",
    f"The interval of a difference marked {NOISE} may lie wholly above or below 0. {MARK_TEXT}",
    "With one seed the interval covers the choice of images, not the noise of training: another "
    "seed may change the difference by more. ± is the standard deviation over seeds, not an "
    "interval.",
)

_MAIN = ("", "masks")


@dataclass(frozen=True)
class Topic:
    """What belongs together under a heading: pictures, with their numbers beside them."""

    name: str
    """The tabular's name, of masks with the prefix `mask_`."""
    title: str
    remark: str = ""
    pictures: tuple[str, ...] = ()


TOPICS = (
    Topic("differences", "Differences to the baseline", pictures=("ap-by-scale",)),
    Topic(
        "costs",
        "AP against cost",
        "[low, high] is the 95 % interval of AP itself, over images and, from two seeds on, the "
        "noise of training; variants share the images, so their differences are known better. MACs "
        "and params are those of the backbone at 224 x 224.",
        tuple(f"ap-against-{name}" for name in DRAWN),
    ),
    Topic(
        "published",
        "Measured beside published",
        "The protocols differ: the published figures are percent points on COCO, with 180k steps "
        "of 16 images at 800 pixels unless the source says otherwise. Compare orders and signs of "
        "differences, not figures. A dash is a figure that is not known here.",
    ),
    Topic(
        "categories",
        "AP by category",
        "Marks are corrected over all variants and categories of the table.",
        ("categories",),
    ),
    Topic(
        "AP-by-iou-and-scale",
        "AP by IoU threshold and object scale",
        pictures=("ap-by-iou-and-scale",),
    ),
    Topic("AR-by-iou-and-scale", "AR by IoU threshold and object scale"),
    Topic(
        "errors",
        "Errors: what fixing each type would gain, in AP50",
        "TIDE's types: Cls wrong class, Loc box off, Both, Dupe found twice, Bkg nothing there, "
        "Miss not found. Gains do not add up: fixing one type changes what another would gain.",
        ("errors",),
    ),
    Topic(
        "error-differences",
        "Errors: gains minus the baseline's (negative: fewer such errors)",
        "Marks are corrected over all variants, types and scales of the table.",
    ),
    Topic(
        "receptive-fields",
        "Receptive field by stage",
        "Side in input pixels, effective of theoretical: the pixels whose gradient at the center "
        "of the map is more than 4.55 % of the largest, in trained backbones (Luo et al. 2016). "
        "`?` is the whole image, or not known.",
        ("receptive-fields",),
    ),
    Topic("training", "Training", pictures=("loss-curves",)),
    Topic("images", "Validation images", pictures=("sheet",)),
)


@dataclass(frozen=True)
class Section:
    """A table as the report shows it, tabulars by file name."""

    table: Table
    summary: pd.DataFrame
    cells: pd.DataFrame
    tabulars: dict[str, Tabular]
    compared: AgainstBaseline

    @property
    def main_tabulars(self) -> list[Tabular]:
        return [self.tabulars[name] for name in _MAIN if name in self.tabulars]

    @property
    def about(self) -> str:
        """What the runs share, and what they are compared with."""
        if not self.table.variants:
            return "No run of this table is done."
        data = self.table.runs[0].record.data
        protocols = ", ".join(dict.fromkeys(map(protocol_name, self.table.runs)))
        baseline = "none" if self.table.baseline is None else self.table.baseline.name
        return (
            f"{data.get('num_val', '?')} validation images (data {data['val_fingerprint']}), "
            f"protocol {protocols}. Baseline: {baseline} ({self.table.baseline_origin})."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the rows of the table hard to compare."""
        found = [self.table.mixed_versions, self.table.mixed_protocols]
        if len(self._latencies) > 1:
            found.append(
                f"Latencies were measured in different ways ({'; '.join(self._latencies)}), so do "
                "not compare them: `python -m ablations.latency` measures all anew in one go."
            )
        return tuple(filter(None, found))

    @property
    def legend(self) -> str:
        """What the columns are, and what the intervals cover."""
        name, note = ("error", ", lower is better") if self.table.classifies else ("AP", "")
        columns = (
            f"{name} in percent points{note}, mean ± standard deviation over seeds where there are "
            "several; params and MACs of the backbone at 224 x 224; images/s in training; "
            f"Δ{name} to baseline"
        )
        if not self.compared.covers:
            return f"{columns}, without intervals."
        marks = (
            f"{REAL} real after correction over all variants and {name} columns of the table "
            f"(boxes and masks apart), {NOISE} below the noise"
        )
        return " ".join((f"{columns}: {marks}.", *self.compared.covers))

    @property
    def findings(self) -> str:
        """What the table shows, in sentences."""
        return findings(self.table, self.compared.metrics)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the table should show and does not, with the reason."""
        return (*map(str, self.table.absent), *self.compared.left_out)

    def blocks(self, pictures: Mapping[str, Sequence[Picture]]) -> list[Block]:
        """The table's part of the page; `pictures` by the figure's name."""
        blocks: list[Block] = [
            Heading(f"Table: {self.table.name}"),
            Paragraph(self.about),
            *map(Paragraph, self.warnings),
            *self.main_tabulars,
            *map(Paragraph, filter(None, [self.findings])),
            Paragraph(self.legend),
        ]
        if self.left_out:
            blocks += [Heading("Failed, missing or left out", 3), Bullets(self.left_out)]
        for topic in TOPICS:
            for prefix in PREFIXES.values():
                blocks += self._topic_blocks(topic, prefix, pictures)
        return blocks

    def _topic_blocks(
        self, topic: Topic, prefix: str, pictures: Mapping[str, Sequence[Picture]]
    ) -> list[Block]:
        shown: list[Block] = [
            picture for name in topic.pictures for picture in pictures.get(prefix + name, ())
        ]
        tabular = self.tabulars.get(prefix + topic.name)
        if tabular is not None:
            shown.append(tabular)
        if not shown:
            return []
        masks = ", masks" if prefix else ""
        remarks = [topic.remark] if topic.remark else []
        if topic.name == "costs":
            remarks += [f"Latency and images/s of backbones: {told}." for told in self._latencies]
        return [Heading(f"{topic.title}{masks}", 3), *shown, *map(Paragraph, remarks)]

    @property
    def _latencies(self) -> tuple[str, ...]:
        return circumstances(self.table.runs)


def make_section(table: Table, matched: MatchedRuns, num_resamples: int, tell: Tell) -> Section:
    """Everything the report says of a table in figures."""
    return section_of(table, compare_to_baseline(table, matched, num_resamples, tell))


def section_of(table: Table, compared: AgainstBaseline) -> Section:
    """The section of a table that is compared already."""
    summary, cells = frames.summary(table), frames.cells(table)
    tabulars = {}
    for name, iou_type in zip(_MAIN, table.iou_types, strict=False):
        tabulars[name] = tables.metric_tabular(summary, compared.metrics, iou_type)
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        metrics = [metric.name for metric in table_metrics([iou_type])]
        if table.others:
            shown = tables.difference_tabular(compared.metrics, metrics)
            tabulars[f"{prefix}differences"] = shown
        if iou_type in set(cells.iou_type):
            for metric in ("AP", "AR"):
                wide = frames.by_threshold_and_scale(cells, iou_type, metric)
                tabulars[f"{prefix}{metric}-by-iou-and-scale"] = tables.threshold_tabular(wide)
    if table.classifies:
        tabulars[""] = tables.error_tabular(summary, compared.metrics)
    else:
        tabulars["costs"] = tables.cost_tabular(table, summary, compared.intervals.get("bbox"))
    if (reaches := tables.receptive_field_tabular(table)) is not None:
        tabulars["receptive-fields"] = reaches
    if (curves := tables.training_tabular(table)) is not None:
        tabulars["training"] = curves
    tabulars |= published_tabulars(table, cells)
    baseline = None if table.baseline is None else table.baseline.name
    for iou_type, frame in compared.categories.items():
        if frame["category"].nunique() > 1:
            shown = tables.category_tabular(frame, baseline)
            tabulars[f"{PREFIXES[iou_type]}categories"] = shown
    for iou_type, frame in compared.gains.items():
        tabulars[f"{PREFIXES[iou_type]}errors"] = tables.gains_tabular(frame)
    for iou_type, frame in compared.gain_differences.items():
        shown = tables.gain_differences_tabular(frame)
        tabulars[f"{PREFIXES[iou_type]}error-differences"] = shown
    return Section(table, summary, cells, tabulars, compared)


def closing_blocks(
    chosen: Sequence[Table], runs: Sequence[Run], matched: MatchedRuns, faults: Sequence[str] = ()
) -> list[Block]:
    """How to read differences, what is left out, and what every run ran on.

    `faults` name what cannot be read of the runs folder.
    """
    blocks: list[Block] = [Heading("How to read a difference"), Bullets(HOW_TO_READ)]
    if faults:
        blocks += [Heading("What cannot be read"), Bullets(tuple(faults))]
    if left := outside(chosen, runs):
        names = tuple(f"{r.record.variant} seed {r.record.seed} ({r.record.status})" for r in left)
        blocks += [
            Heading("Runs in no table"),
            Paragraph("--all tables every run and ignores the tables noted in the runs folder."),
            Bullets(names),
        ]
    blocks += [Heading("Runs"), tables.runs_tabular(runs, matched)]
    commands = dict.fromkeys(run.record.env.get("command") for run in runs)
    if told := [str(command) for command in commands if command]:
        blocks += [Heading("Commands"), Code("\n".join(told))]
    return blocks
