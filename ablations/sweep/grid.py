"""The jobs of a sweep: table variants x lists of values, all checked before one starts.

Hydra's own basic sweeper neither knows tables nor looks beyond the types of a job's values.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from ablations.config import RunConfig
from ablations.job import Job, prepare
from ablations.record import write_table
from ablations.sweep.compose import names_variant, run_config, short_name, variant_name

Overrides = list[str]


@dataclass(frozen=True)
class Grid:
    """Turns command-line arguments into jobs; `master` is the configuration of the whole sweep."""

    loader: ConfigLoader
    master: DictConfig

    def expand(self, arguments: Overrides) -> list[Overrides]:
        """The overrides of every job, the table's variants innermost.

        Raises HydraException for a list that cannot be a grid, or that a table sets itself.
        """
        fixed, lists = self._split(arguments)
        grid = [list(choice) for choice in itertools.product(*lists.values())]
        master = self._compose(fixed)
        if master.variant is not None:
            return [[*fixed, *choice] for choice in grid]
        if master.table is None:
            return [self._named([*fixed, *choice], choice) for choice in grid]
        variants = {str(name): list(words) for name, words in master.table.variants.items()}
        for words in variants.values():
            _refuse_contradiction([*fixed, *lists], words, master.table.name)
        return [
            [*fixed, *choice, *words, _variant(name, choice)]
            for choice in grid
            for name, words in variants.items()
        ]

    def _named(self, overrides: Overrides, choice: Overrides) -> Overrides:
        """Names the variant where more than what `variant_name` knows is swept."""
        others = [o for o in choice if not o.startswith("backbone=") and not names_variant(o)]
        if all(o.startswith("seed=") for o in others):
            return overrides
        try:
            _, name = self.compose(overrides)
        except Exception:
            return overrides  # `check` tells this fault with all the others
        return [*overrides, _variant(name, others)]

    def check(self, jobs: list[Overrides]) -> list[Job]:
        """Compose every job and open its data; raises HydraException naming all faults."""
        faults, prepared = [], []
        for number, overrides in enumerate(jobs):
            try:
                prepared.append(prepare(*self.compose(overrides)))
            except Exception as error:
                cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
                faults.append(f"job {number} ({' '.join(overrides)}): {error}{cause}")
        if faults:
            raise HydraException(
                f"nothing was started, {len(faults)} of {len(jobs)} jobs are wrong:\n  "
                + "\n  ".join(faults)
            )
        return prepared

    def compose(self, overrides: Overrides) -> tuple[RunConfig, str]:
        """The checked config of one job, and its variant's name."""
        composed = self._compose(overrides)
        config = run_config(composed)
        return config, variant_name(config, composed.hydra.runtime.choices["backbone"], overrides)

    def _compose(self, overrides: Overrides) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(overrides))

    def _split(self, arguments: Overrides) -> tuple[Overrides, dict[str, Overrides]]:
        fixed: Overrides = []
        lists: dict[str, Overrides] = {}
        parser = OverridesParser.create(config_loader=self.loader)
        for override in parser.parse_overrides(arguments):
            if override.is_sweep_override():
                lists[override.get_key_element()] = _values(override)
            else:
                assert override.input_line is not None
                fixed.append(override.input_line)
        return fixed, lists


def note_tables(jobs: Sequence[Job]) -> None:
    """Leave the table's variants, order and baseline in the runs folder, if a table was asked.

    Where other values were swept too, each choice of them is a table of its own.
    """
    table = jobs[0].config.table
    if table is None:
        return
    names = list(map(str, table.variants))
    for first in range(0, len(jobs), len(names)):
        group = jobs[first : first + len(names)]
        suffix = group[0].variant.removeprefix(names[0])
        write_table(
            Path(group[0].config.job.runs),
            table.name + suffix,
            [{"variant": job.variant, "digest": job.digest} for job in group],
            (table.baseline or names[0]) + suffix,
        )


def _variant(name: str, choice: Overrides) -> str:
    """The override that names a variant, by all that was swept bar the seeds."""
    varied = [short_name(override) for override in choice if not override.startswith("seed=")]
    return f"variant='{','.join([name, *varied])}'"


def _values(override: Override) -> Overrides:
    key = override.get_key_element()
    if not override.is_discrete_sweep():
        raise HydraException(
            f"{override.input_line}: a grid needs a list of values, such as {key}=1,2,3"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _refuse_contradiction(given: Overrides, variant: Sequence[str], table: str) -> None:
    keys = {_key(override) for override in given}
    for override in variant:
        if _key(override) in keys:
            raise HydraException(
                f"table {table} sets {_key(override)} itself ({override}): leave "
                f"{_key(override)} off the command line"
            )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
