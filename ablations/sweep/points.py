"""The points of a sweep: what is asked for, typed, before anything is composed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

SEED = "seed"


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
