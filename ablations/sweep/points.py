"""The points of a sweep: what is asked for, typed, before anything is composed."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SEED = "seed"


class SweepError(ValueError):
    """A sweep that cannot be planned; the message names what is wrong and the remedy."""


@dataclass(frozen=True)
class Point:
    """One run that a sweep asks for: a row of a table, or choices among listed values, or both.

    `fixed` are the overrides that all points share; `choices` maps each swept key to its value,
    the seed among them; `row` is the table's name for the variant and `words` its overrides.
    """

    fixed: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    row: str | None = None
    words: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """What Hydra composes."""
        chosen = [f"{key}={value}" for key, value in self.choices.items()]
        table = [] if self.table is None else [f"+table={self.table}"]
        return [*self.fixed, *table, *chosen, *self.words]

    @property
    def varied(self) -> dict[str, str]:
        """The choices that make another variant: all but the seed."""
        return {key: value for key, value in self.choices.items() if key.lstrip("+~") != SEED}

    @property
    def seed(self) -> int | None:
        """The seed chosen for this point; None where none is, or what is chosen is no number."""
        chosen = self.choices.get(SEED, "")
        return int(chosen) if re.fullmatch(r"0|[1-9]\d*", chosen) else None

    @property
    def without_seed(self) -> "Point":
        """What the points of a variant share."""
        return replace(self, choices={k: v for k, v in self.choices.items() if k != SEED})


def as_groups(paired: Iterable[Any] | None) -> list[list[str]]:
    """Keys whose lists go side by side: one group of keys or a list of groups."""
    given = list(paired or [])
    groups = [given] if given and all(isinstance(each, str) for each in given) else given
    return [[str(key) for key in group] for group in groups]


def product(
    lists: Mapping[str, Sequence[str]], paired: Sequence[Sequence[str]] = ()
) -> list[dict[str, str]]:
    """Every combination of the lists' values; what is paired goes side by side instead.

    Raises SweepError for a pair of which one has no list, or a longer one.
    """
    return [
        {key: value for choice in combined for key, value in choice.items()}
        for combined in itertools.product(*_dimensions(lists, paired))
    ]


def _dimensions(
    lists: Mapping[str, Sequence[str]], paired: Sequence[Sequence[str]]
) -> list[list[dict[str, str]]]:
    """The sweep's dimensions, each a list of choices; paired keys are one dimension."""
    by_key = {key.lstrip("+~"): key for key in lists}
    partners: dict[str, list[str]] = {}
    for group in paired:
        for key in group:
            if key not in by_key:
                raise SweepError(
                    f"hydra.sweeper.paired: {key} has no list of values: give {key}=a,b"
                )
            partners[key] = list(group)
        if len({len(lists[by_key[key]]) for key in group}) > 1:
            told = ", ".join(f"{key} has {len(lists[by_key[key]])}" for key in group)
            raise SweepError(f"hydra.sweeper.paired: lists of one length go side by side: {told}")
    dimensions = []
    for key in by_key:
        group = partners.get(key, [key])
        if key == group[0]:
            values = zip(*(lists[by_key[each]] for each in group), strict=True)
            keys = [by_key[each] for each in group]
            dimensions.append([dict(zip(keys, each, strict=True)) for each in values])
    return dimensions
