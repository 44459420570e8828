"""The grid of a sweep: table variants x lists of values, all planned before one run starts.

Hydra's own basic sweeper neither knows tables nor looks beyond the types of a job's values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from ablations.config import RunConfig, TimmBackbone
from ablations.planning import PlannedRun, PlannedVariant, plan_variant, runs_folder
from ablations.record import RunFolders, write_sweep, write_table
from ablations.storage import held
from ablations.sweep.compose import REFUSALS, as_run_config, plain_reason, run_config
from ablations.sweep.composer import Composed, Composer
from ablations.sweep.naming import choice_name, safe, variant_name
from ablations.sweep.order import ORDERS, training_work
from ablations.sweep.points import SEED, Point, SweepError, as_groups, product
from detnet.spec import BackboneSpec

_NOT_SWEPT = {
    "job": "decides no result, so its values would be one run: run the command once for each",
    "variant": "names one variant: leave it out, and names are made from what is swept",
}


MAX_FAULTS = 20
"""How many wrong jobs a message tells of."""


@dataclass(frozen=True)
class PlannedPoint:
    """A point with the run that it stands for."""

    point: Point
    run: PlannedRun

    @property
    def overrides(self) -> list[str]:
        """What the run's own process composes: the point, with the run's name spelled out."""
        return [*self.point.overrides, f"variant='{self.run.variant}'"]


@dataclass(frozen=True)
class Grid:
    """Turns command-line arguments into runs; `master` is the configuration of the whole sweep."""

    loader: ConfigLoader
    master: DictConfig
    _references: dict[tuple[str, str], RunConfig] = field(default_factory=dict)

    @cached_property
    def composer(self) -> Composer:
        """Composes what points ask for."""
        return Composer(self.loader, self.master)

    @classmethod
    def of_hydra(cls, overrides: Sequence[str] = ()) -> "Grid":
        """The grid of this process's initialized Hydra; `overrides` are Hydra's own."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config(
            "config", overrides=list(overrides), run_mode=RunMode.MULTIRUN
        )
        return cls(hydra.config_loader, master)

    def plan(self, arguments: Sequence[str]) -> list[PlannedPoint]:
        """Every run of the sweep, composed, checked, with its data opened; each run once a table.

        Raises SweepError that names all faults.
        """
        faults, planned = [], []
        variants = _Variants(self)
        for number, point in enumerate(points := self.points(arguments)):
            try:
                planned.append(PlannedPoint(point, variants.run(point)))
            except REFUSALS as error:
                words = " ".join(point.overrides)
                faults.append(f"job {number} ({shown_words(words)}): {plain_reason(error)}")
        if faults:
            told = faults[:MAX_FAULTS]
            if len(faults) > MAX_FAULTS:
                told.append(f"and {len(faults) - MAX_FAULTS} more")
            raise SweepError(
                f"nothing was started, {len(faults)} of {len(points)} jobs are wrong:\n  "
                + "\n  ".join(told)
            )
        _refuse_mixed_conventions(planned)
        return planned

    def points(self, arguments: Sequence[str]) -> list[Point]:
        """What the arguments ask for, the table's variants innermost; raises SweepError."""
        fixed, lists = self._split(arguments)
        for key in lists:
            if reason := _NOT_SWEPT.get(key.lstrip("+~").partition(".")[0]):
                raise SweepError(f"{key}: {reason}")
        named = next((word for word in fixed if _key(word) == "variant"), None)
        if named is not None and {_key(key) for key in lists} - {SEED}:
            raise SweepError(f"{named}: {_NOT_SWEPT['variant']}")
        tables: Sequence[str | None] = [None]
        for key in [key for key in lists if key.lstrip("+") == "table"]:
            tables = lists.pop(key)
        paired = as_groups(self.master.hydra.sweeper.get("paired"))
        choices = product(lists, paired)
        return [
            point
            for table in tables
            for point in self._points_of(table, tuple(fixed), list(lists), choices)
        ]

    def _points_of(
        self,
        table: str | None,
        fixed: tuple[str, ...],
        swept: Sequence[str],
        choices: Sequence[dict[str, str]],
    ) -> list[Point]:
        master = self.composer.compose(Point(fixed, table=table).overrides).values
        if master.table is None:
            return [Point(fixed, choice) for choice in choices]
        if not master.table.variants:
            raise SweepError(f"table {master.table.name}: variants is empty: list its variants")
        variants = {
            str(name): tuple(map(str, words)) for name, words in master.table.variants.items()
        }
        for word in fixed:
            if _key(word) == "variant":
                raise SweepError(f"{word}: names one variant, table {master.table.name} its own")
        for words in variants.values():
            _refuse_contradiction([*fixed, *swept], words, master.table.name)
        return [
            Point(fixed, choice, table, name, words)
            for choice in choices
            for name, words in variants.items()
        ]

    def compose(self, point: Point) -> tuple[RunConfig, str]:
        """The checked config of a point, and its variant's name."""
        return self.as_variant(point, self.composer.compose(point.overrides))

    def as_variant(self, point: Point, composed: Composed) -> tuple[RunConfig, str]:
        """What was composed of a point, checked, and its variant's name."""
        config = run_config(composed.values)
        if point.row is not None and config.variant is None:
            names = [point.row, *(choice_name(k, v) for k, v in point.varied.items())]
            return config, ",".join(map(safe, names))
        return config, self.name(config, composed.choices, point.varied)

    def name(
        self,
        config: RunConfig,
        choices: Mapping[str, Any],
        varied: Mapping[str, str] | None = None,
    ) -> str:
        """The variant's name; `choices` are Hydra's of every group."""
        backbone, detector = str(choices["backbone"]), str(choices["detector"])
        named = {"backbone": backbone}
        default = self.master.hydra.runtime.choices["detector"]
        if config.detector is not None and detector != default:
            named["detector"] = detector
        return variant_name(config, self._reference(backbone, detector, config), named, varied)

    def _reference(self, backbone: str, detector: str, config: RunConfig) -> RunConfig:
        if (backbone, detector) not in self._references:
            words = [f"backbone={backbone}", f"detector={detector}", "data=glyphs"]
            if isinstance(config.backbone, TimmBackbone):
                words.append(f"backbone.name={config.backbone.name}")
            composed = self.composer.compose(words)
            self._references[backbone, detector] = as_run_config(composed.values)
        return self._references[backbone, detector]

    def _split(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
        """The overrides that all points share, and the values of each swept key."""
        fixed: list[str] = []
        lists: dict[str, list[str]] = {}
        for override in self.composer.parse(arguments):
            if override.is_sweep_override():
                lists[override.get_key_element()] = _values(override)
            else:
                assert override.input_line is not None
                fixed.append(override.input_line)
        return fixed, lists


class _Variants:
    """Plans runs; what a variant's runs share is composed and opened once for all its seeds."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._planned: dict[tuple[str, ...], PlannedVariant] = {}
        self._folders: dict[Path, RunFolders] = {}

    def run(self, point: Point) -> PlannedRun:
        """The run of a point; raises ValueError and HydraException where it could not run."""
        variant, seed = self._variant(point), point.seed
        runs = runs_folder(variant.config)
        if runs not in self._folders:
            self._folders[runs] = RunFolders(runs)
        return variant.run(variant.config.seed if seed is None else seed, self._folders[runs])

    def _variant(self, point: Point) -> PlannedVariant:
        key = tuple(point.without_seed.overrides)
        if point.seed is not None and key in self._planned:
            return self._planned[key]
        composed = self.grid.composer.compose(point.overrides)
        variant = plan_variant(*self.grid.as_variant(point, composed))
        if point.seed is not None and not composed.has_interpolation:
            self._planned[key] = variant
        return variant


def note_tables(planned: Sequence[PlannedPoint]) -> None:
    """Leave each table's variants, order and baseline in the runs folder.

    Where other values were swept too, each choice of them is a table of its own.
    """
    groups: dict[tuple[str, str], list[PlannedPoint]] = {}
    for each in planned:
        table = each.run.config.table
        if table is not None and each.point.row is not None:
            suffix = each.run.variant.removeprefix(safe(each.point.row))
            groups.setdefault((table.name, suffix), []).append(each)
    for (name, suffix), members in groups.items():
        table = members[0].run.config.table
        assert table is not None
        baseline = table.baseline or next(iter(table.variants))
        variants = {each.run.variant: each.run.digest for each in members}
        runs = Path(members[0].run.config.job.runs).expanduser()
        with held(runs, wait=True):  # several sweeps may note one table
            write_table(
                runs,
                name + suffix,
                [{"variant": v, "digest": digest} for v, digest in variants.items()],
                safe(str(baseline)) + suffix,
                table.published,
            )


def note_sweep(planned: Sequence[PlannedPoint]) -> None:
    """Leave in the runs folder what a sweep planned, for those who watch it."""
    by_folder: dict[Path, list[dict[str, Any]]] = {}
    for run in (each.run for each in planned):
        noted = {"variant": run.variant, "digest": run.digest, "seed": run.config.seed}
        by_folder.setdefault(runs_folder(run.config), []).append(noted)
    for runs, noted_runs in by_folder.items():
        with held(runs, wait=True):
            write_sweep(runs, noted_runs)


def _refuse_mixed_conventions(planned: Sequence[PlannedPoint]) -> None:
    """A table whose networks stride on different convolutions compares more than it says."""
    tables: dict[str, dict[str, str]] = {}
    for each in planned:
        backbone, table = each.run.config.backbone, each.run.config.table
        chosen = any("backbone.stride_on=" in word for word in each.point.words)
        if table is None or chosen or not isinstance(backbone, BackboneSpec):
            continue
        if backbone.stride_convention is not None:
            rows = tables.setdefault(table.name, {})
            rows.setdefault(backbone.stride_convention, str(each.point.row))
    for table_name, by_convention in tables.items():
        if len(by_convention) > 1:
            listed = ", ".join(f"{row} on the {where}" for where, row in by_convention.items())
            raise SweepError(
                f"table {table_name}: its networks stride on different convolutions ({listed}): "
                "take all with the suffix b (3x3) or all without (1x1), or set backbone.stride_on "
                "in the rows where that is what you ablate"
            )


def in_order(planned: Sequence[PlannedPoint], order: str | None) -> list[PlannedPoint]:
    """The points as a sweep starts them; raises SweepError for an unknown order."""
    if order in ("asked", None):
        return list(planned)
    if order not in ORDERS:
        raise SweepError(f"hydra.sweeper.order={order}: give {', '.join(ORDERS)}")
    return sorted(planned, key=lambda p: training_work(p.run), reverse=order == "dearest")


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_discrete_sweep():
        raise SweepError(
            f"{override.input_line}: a grid needs a list of values, such as {key}=1,2,3"
        )
    return [str(value) for value in override.sweep_string_iterator()]


def _refuse_contradiction(given: Sequence[str], variant: Sequence[str], table: str) -> None:
    keys = {_key(override) for override in given}
    for override in variant:
        if _key(override) in keys:
            raise SweepError(
                f"table {table} sets {_key(override)} itself ({override}): leave "
                f"{_key(override)} off the command line"
            )


def shown_words(words: str, length: int = 1000) -> str:
    """Overrides for a message, cut where they are long."""
    return words if len(words) <= length else f"{words[:length]}..."


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
