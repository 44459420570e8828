"""Known variants as points of a search space: what a table's rows are in the search's own words."""

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ablations.config import RunConfig
from ablations.sweep.compose import REFUSALS, as_run_config, plain_reason
from ablations.sweep.grid import Grid
from ablations.sweep.naming import changes
from ablations.sweep.search_space import ABSENT, Parameter, SearchError, SearchSpace

log = logging.getLogger(__name__)

_NAMES_ONLY = ("job", "variant", "table")


def known_variants(grid: Grid, space: SearchSpace, table: str | None) -> list[dict[str, Any]]:
    """The values of each row that is a point of the space; others are told and left out.

    Raises SearchError where no row is.
    """
    if table is None:
        return []
    composed = _compose(grid, [*space.fixed, f"+table={table}"])
    found, outside = [], []
    for row, words in composed.table.variants.items():
        try:
            found.append(_values_of_row(grid, space, list(map(str, words))))
        except REFUSALS as error:
            outside.append(f"{row}: {plain_reason(error)}")
    for line in outside:
        log.warning("table %s, %s; it is not tried first", table, line)
    if not found:
        raise SearchError(
            f"hydra.sweeper.known={table}: none of its variants is a point of this space"
        )
    return found


def _values_of_row(grid: Grid, space: SearchSpace, words: list[str]) -> dict[str, Any]:
    keys = {_key(word) for word in words}
    kept = [word for word in space.fixed if _key(word) not in keys]
    row = _compose(grid, [*kept, *words])
    values: dict[str, Any] = {}
    for parameter in space.parameters:
        if parameter.is_asked(values):
            values[parameter.name] = _value_in_row(grid, space, row, parameter, values)
    wanted = as_run_config(row)
    given = as_run_config(_compose(grid, space.point(values).overrides))
    if difference := next(_differences(wanted, given), None):
        raise SearchError(f"has {difference}, which is not searched")
    return values


def _value_in_row(
    grid: Grid, space: SearchSpace, row: DictConfig, parameter: Parameter, values: dict[str, Any]
) -> Any:
    """The parameter's value with which the configuration is the row's at its key."""
    at_key = OmegaConf.select(row, parameter.name)
    candidates = parameter.choices
    if candidates is None:
        low, high = parameter.probes[0], parameter.probes[-1]
        candidates = (at_key,) if at_key is not None and low <= at_key <= high else ()
    for value in candidates:
        point = space.point({**values, parameter.name: value})
        if OmegaConf.select(_compose(grid, point.overrides), parameter.name) == at_key:
            return value
    shown = ABSENT if at_key is None else at_key
    raise SearchError(f"{parameter.name} is {shown}, which is not among the values searched")


def _differences(wanted: RunConfig, given: RunConfig) -> Iterator[str]:
    for each in fields(RunConfig):
        one, other = getattr(wanted, each.name), getattr(given, each.name)
        if each.name not in _NAMES_ONLY and one != other:
            told = changes(one, other) if hasattr(one, "__slots__") else ()
            yield f"{each.name}: {', '.join(told) or one}"


def _compose(grid: Grid, words: list[str]) -> DictConfig:
    return grid.loader.load_sweep_config(grid.master, words)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
