"""Which runs stand together in a table, and what is absent from it.

Runs of one variant that differ in the seed are repetitions of it. A table holds only runs that
were scored on the same validation data; what failed or is missing is named beside it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.evaluation.metrics import PREFIXES, error_metrics, table_metrics
from ablations.record import Run, read_runs, read_tables
from analysis.published import PAPER_TABLES

_NO_RUN = "no run in this folder"


class ReportError(ValueError):
    """The runs cannot be put into a table; the message names the runs and the remedy."""


@dataclass(frozen=True)
class Variant:
    """One point of the design space with its finished runs, a run per seed."""

    name: str
    digest: str
    runs: tuple[Run, ...]

    @property
    def receptive_field(self) -> Mapping[str, Any]:
        """What `ablations.receptive_field` measured; empty where it has not."""
        return next((run.receptive_field for run in self.runs if run.receptive_field), {})

    def values(self, metric: str) -> list[float]:
        """A metric over the seeds; empty where a run does not have it."""
        values = [run.record.metrics.get(metric) for run in self.runs]
        return [value for value in values if value is not None]


@dataclass(frozen=True)
class Absent:
    """A variant or one of its seeds that a table should have and has not, and why."""

    name: str
    digest: str
    status: str
    reason: str
    seed: int | None = None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.name}{seed}: {self.status} ({self.reason})"


@dataclass(frozen=True)
class Table:
    """Variants over the same validation data, in order; `baseline` is None if it has no run."""

    name: str
    variants: tuple[Variant, ...]
    baseline: Variant | None
    baseline_origin: str
    absent: tuple[Absent, ...] = ()
    published: str | None = None
    """Its counterpart in the paper, `table5` say; None where the table names none."""

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for variant in self.variants for run in variant.runs)

    @property
    def mixed_versions(self) -> str | None:
        """Which runs are of which results version, and the remedy; None where all are of one."""
        listed = self._listed_where_mixed(lambda run: f"version {run.record.results_since}")
        return listed and (
            "The runs of this table are of different results versions, between which the same "
            f"configuration gives other results ({listed}). job.retrain_outdated=true trains the "
            "outdated ones anew."
        )

    @property
    def mixed_protocols(self) -> str | None:
        """Which runs are under which protocol, and the remedy; None where all are under one."""
        listed = self._listed_where_mixed(lambda run: f"protocol {protocol_name(run)}")
        return listed and (
            f"The runs of this table are under different protocols ({listed}), so a difference "
            "between them is not that of the variants alone. Train all under one, unless the "
            "protocol is what you ablate."
        )

    def _listed_where_mixed(self, label: Callable[[Run], str]) -> str | None:
        """The runs by what `label` says of them; None where it says the same of all."""
        by_label: dict[str, list[str]] = {}
        for run in self.runs:
            name = f"{run.record.variant} seed {run.record.seed}"
            by_label.setdefault(label(run), []).append(name)
        if len(by_label) < 2:
            return None
        return "; ".join(f"{told}: {', '.join(names)}" for told, names in sorted(by_label.items()))

    @property
    def others(self) -> tuple[Variant, ...]:
        """The variants that are compared with the baseline; none where it has no run."""
        if self.baseline is None:
            return ()
        return tuple(variant for variant in self.variants if variant is not self.baseline)

    @property
    def classifies(self) -> bool:
        """Whether its runs are classifications, which have errors and no AP."""
        return any(is_classification(run) for run in self.runs)

    @property
    def iou_types(self) -> tuple[str, ...]:
        """`bbox`, and `segm` where a run has AP of masks; none of classifications."""
        if self.classifies:
            return ()
        return tuple(
            iou_type
            for iou_type, prefix in PREFIXES.items()
            if iou_type == "bbox" or any(variant.values(f"{prefix}AP") for variant in self.variants)
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that the table shows, boxes first."""
        if self.classifies:
            return tuple(metric.name for metric in error_metrics())
        return tuple(metric.name for metric in table_metrics(self.iou_types))


def is_classification(run: Run) -> bool:
    return run.record.config.get("task") == "classify"


def protocol_name(run: Run) -> str:
    return str(run.record.config.get("protocol", {}).get("name", "unnamed"))


def collect(
    runs_folder: Path,
    baseline: str | None = None,
    ignore_tables: bool = False,
    faults: list[str] | None = None,
) -> list[Table]:
    """The tables of a runs folder: those noted in it, else one for each data and protocol.

    `baseline` overrides the baseline wherever it names a variant. Files that cannot be read and
    tables that mix validation data are left out and named in `faults`. Raises ReportError when
    nothing is finished, when no table is left, or none has that baseline.
    """
    faults = [] if faults is None else faults
    runs = read_runs(runs_folder, faults)
    if not runs:
        raise ReportError(
            "\n".join(faults)
            or f"{runs_folder}: no runs; a run leaves <variant>-<digest>/seed<k>/record.json"
        )
    if not any(run.record.status == "done" for run in runs):
        listed = "; ".join(str(_not_done(run, run.record.variant)) for run in runs)
        raise ReportError(f"{runs_folder}: no run is done: {listed}")
    noted = {} if ignore_tables else read_tables(runs_folder, faults)
    tables = []
    for content in noted.values():
        try:
            tables.append(_noted_table(content, runs, baseline, faults))
        except ReportError as error:
            faults.append(str(error))
    if not noted:
        tables = _tables_by_data(runs, baseline)
    elif not tables:
        raise ReportError("\n".join(faults))
    known = sorted({variant.name for table in tables for variant in table.variants})
    if baseline is not None and baseline not in known:
        raise ReportError(
            f"--baseline {baseline}: no such finished variant; there are {', '.join(known)}"
        )
    return tables


def outside(tables: Sequence[Table], runs: Sequence[Run]) -> list[Run]:
    """The runs of which no table says anything."""
    told = {variant.digest for table in tables for variant in table.variants}
    told |= {absent.digest for table in tables for absent in table.absent}
    return [run for run in runs if run.record.digest not in told]


def _not_done(run: Run, name: str) -> Absent:
    record = run.record
    reason = "not finished: the same command again continues it"
    if record.status in ("failed", "pruned"):
        reason = first_line(record.error or "no error recorded")
    return Absent(name, record.digest, record.status, reason, record.seed)


def first_line(error: str) -> str:
    """The line that says what happened: of a traceback, the exception's."""
    lines = error.strip().splitlines() or [""]
    headers = [index for index, line in enumerate(lines) if line.startswith("Traceback (most")]
    after = lines[headers[-1] + 1 :] if headers else lines
    return next((line for line in after if not line.startswith(" ")), lines[-1]).strip()


def _noted_table(
    content: Mapping[str, Any], runs: Sequence[Run], baseline: str | None, faults: list[str]
) -> Table:
    entries = list(dict.fromkeys((v["variant"], v["digest"]) for v in content["variants"]))
    digests = {digest for _, digest in entries}
    chosen = [run for run in runs if run.record.digest in digests]
    _refuse_mixed_data(content["name"], chosen)
    table = _table(
        content["name"], entries, chosen, baseline, content["baseline"], "as the table notes"
    )
    published = content.get("published")
    if published is not None and published not in PAPER_TABLES:
        faults.append(
            f"table {table.name}: published: {published!r} is no table of the paper: give one of "
            f"{', '.join(PAPER_TABLES)} in the table's file"
        )
        published = None
    return replace(table, published=published)


def _tables_by_data(runs: Sequence[Run], baseline: str | None) -> list[Table]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.record.status == "done":
            key = (run.record.data["val_fingerprint"], protocol_name(run))
            groups.setdefault(key, []).append(run)
    tables = []
    for (fingerprint, protocol), done in groups.items():
        other = [
            run
            for run in runs
            if run.record.status != "done"
            and protocol_name(run) == protocol
            and run.record.data.get("val_fingerprint", fingerprint) == fingerprint
        ]
        members = done + other
        entries = list(dict.fromkeys((run.record.variant, run.record.digest) for run in members))
        name = "runs" if len(groups) == 1 else f"{protocol}-{fingerprint}"
        tables.append(_table(name, entries, members, baseline, None, "the first variant"))
    return tables


def _refuse_mixed_data(name: str, runs: Sequence[Run]) -> None:
    by_data: dict[str, set[str]] = {}
    for run in runs:
        if run.record.status == "done":
            fingerprint = run.record.data["val_fingerprint"]
            by_data.setdefault(fingerprint, set()).add(run.record.variant)
    if len(by_data) > 1:
        listed = "; ".join(f"{data}: {', '.join(sorted(who))}" for data, who in by_data.items())
        raise ReportError(
            f"table {name}: its runs were scored on different validation data ({listed}); "
            "train all its variants on one data set, or keep them in two runs folders"
        )


def _table(
    name: str,
    entries: Sequence[tuple[str, str]],
    runs: Sequence[Run],
    wanted_baseline: str | None,
    noted_baseline: str | None,
    origin: str,
) -> Table:
    """A table of the entries (variant, digest) in order, with what is absent from it."""
    names = Counter(variant for variant, _ in entries)
    seeds = sorted({run.record.seed for run in runs})
    variants: dict[str, Variant] = {}
    absent = []
    for variant, digest in entries:
        label = variant if names[variant] == 1 else f"{variant} ({digest})"
        by_seed = {run.record.seed: run for run in runs if run.record.digest == digest}
        done = tuple(run for _, run in sorted(by_seed.items()) if run.record.status == "done")
        if done:
            variants[label] = Variant(label, digest, done)
        if not by_seed:
            absent.append(Absent(label, digest, "missing", _NO_RUN))
            continue
        for seed in seeds:
            if seed not in by_seed:
                absent.append(Absent(label, digest, "missing", _NO_RUN, seed))
            elif by_seed[seed].record.status != "done":
                absent.append(_not_done(by_seed[seed], label))
    if wanted_baseline in variants:
        baseline, origin = variants.get(wanted_baseline), "as asked for"
    elif noted_baseline is None:
        baseline = next(iter(variants.values()), None)
    else:
        baseline = variants.get(noted_baseline)
        if baseline is None:
            origin = f"{noted_baseline} has no finished run, so there are no differences"
    return Table(name, tuple(variants.values()), baseline, origin, tuple(absent))
