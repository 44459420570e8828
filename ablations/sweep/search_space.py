"""What a search may choose: parameters in Hydra's sweep syntax, and when each is asked for.

    backbone.stages.c5.depth=range(1,4)                              1, 2 or 3
    backbone.stages.c6.projection=true,false                         one of the choices
    protocol.learning_rate=tag(log,interval(0.005,0.08))             any number, by its logarithm
    protocol.num_steps=int(interval(100,400))                        any whole number
    +backbone.stages.c7=absent,{depth:1,width:64}                    no such stage, or this one

`absent` leaves a key out. A parameter is asked for only where the key that it lies under is
present, and where what `only_if` says of it holds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    Transformer,
)
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ablations.sweep.points import SEED, Point

ABSENT = "absent"
_LOG = "log"
_NOT_SEARCHED = {
    "job": "decides no result, so there is nothing to search: give one value",
    "variant": "names one variant: leave it out, and names are made from what is searched",
    "table": "is a list of variants: hydra.sweeper.known=NAME tries them first",
    SEED: "a search over seeds would pick the luckiest: give one value, or sweep over the seeds of "
    "the best variants afterwards",
}

Values = Mapping[str, Any]
"""The value of each parameter that was asked for, by its name."""


class SearchError(ValueError):
    """A search that cannot be done; the message names the field and the remedy."""


@dataclass(frozen=True)
class Condition:
    """Which parameter must be present for another to be asked for, and with which values."""

    name: str
    choices: tuple[str, ...] = ()
    """As text; empty: whatever is present will do."""

    @classmethod
    def parse(cls, text: str) -> "Condition":
        name, _, choices = text.partition("=")
        return cls(name.strip().lstrip("+"), tuple(filter(None, choices.split(","))))

    def holds(self, values: Values) -> bool:
        if values.get(self.name, ABSENT) == ABSENT:
            return False
        return not self.choices or as_text(values[self.name]) in self.choices


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration whose value a search chooses."""

    key: str
    """As on the command line, with its plus where it has one."""
    distribution: BaseDistribution
    conditions: tuple[Condition, ...] = ()

    @property
    def name(self) -> str:
        return self.key.lstrip("+")

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """Every value there is; None where there is no end of them."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return tuple(choices)
            case IntDistribution(low=low, high=high, step=step):
                return tuple(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=step) if step is not None:
                count = round((high - low) / step) + 1
                return tuple(
                    float(Decimal(str(low)) + i * Decimal(str(step))) for i in range(count)
                )
        return None

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that show whether the field takes what the parameter may be."""
        if isinstance(self.distribution, CategoricalDistribution):
            return tuple(self.distribution.choices)
        low, high = self.distribution.low, self.distribution.high  # type: ignore[attr-defined]
        if isinstance(self.distribution, IntDistribution):
            return (low, high)
        return (low, low + (high - low) / 3, high)

    def is_asked(self, values: Values) -> bool:
        return all(condition.holds(values) for condition in self.conditions)

    def shape(self, value: Any) -> list[str] | None:
        """The overrides that leave the key out or add a mapping; None where it is given a value."""
        is_added, text = self.key.startswith("+"), as_text(value)
        if value == ABSENT:
            return [] if is_added else [f"~{self.key}"]
        if is_added and text.startswith("{") and "." in self.name:
            # Hydra adds no mapping to a typed one, such as a stage to stages, but merges it in
            parent, _, leaf = self.name.rpartition(".")
            return [f"+{parent}={{{leaf}:{text}}}"]
        return None


@dataclass(frozen=True)
class SearchSpace:
    """The parameters, each after those that its conditions name, and what all points share."""

    fixed: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @property
    def is_conditional(self) -> bool:
        return any(parameter.conditions for parameter in self.parameters)

    @property
    def grid(self) -> dict[str, tuple[Any, ...]]:
        """Every value of every parameter, where all have an end."""
        return {p.name: p.choices for p in self.parameters if p.choices is not None}

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Ask the trial for each parameter whose conditions hold."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_asked(values):
                values[parameter.name] = _suggest(trial, parameter)
        return values

    def point(self, values: Values) -> Point:
        """What a sweep runs for these values."""
        fixed, choices = list(self.fixed), {}
        for parameter in self.parameters:
            if parameter.name not in values:
                continue
            value = values[parameter.name]
            if (words := parameter.shape(value)) is not None:
                fixed += words
            else:
                choices[parameter.key] = as_text(value)
        return Point(tuple(fixed), choices)

    def probes(self) -> Iterator[dict[str, Any]]:
        """Values for one parameter after the other, with those that its conditions need."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        for parameter in self.parameters:
            needed: dict[str, Any] = {}
            _satisfy(parameter, by_name, needed)
            for value in parameter.probes:
                yield {**needed, parameter.name: value}

    def described(self) -> dict[str, Any]:
        """What tells the space from others, as JSON values."""
        return {
            "fixed": sorted(word for word in self.fixed if not word.startswith("job.")),
            "parameters": {
                parameter.name: {
                    "distribution": str(parameter.distribution),
                    "only_if": [[c.name, *c.choices] for c in parameter.conditions],
                }
                for parameter in self.parameters
            },
        }


def search_space(overrides: Sequence[Override], only_if: Mapping[str, str]) -> SearchSpace:
    """The space that the command line describes; raises SearchError."""
    fixed = [str(each.input_line) for each in overrides if not each.is_sweep_override()]
    for word in fixed:
        if (key := word.partition("=")[0].lstrip("+")) in ("table", "variant"):
            raise SearchError(f"{word}: {_NOT_SEARCHED[key]}")
    swept = {each.get_key_element(): each for each in overrides if each.is_sweep_override()}
    for key in swept:
        if reason := _NOT_SEARCHED.get(key.lstrip("+~").partition(".")[0]):
            raise SearchError(f"{key}: {reason}")
    if not swept:
        raise SearchError(
            "nothing to search: give a key several values, such as "
            "backbone.stages.c6.dilation=1,2 or "
            "'protocol.learning_rate=tag(log,interval(0.005,0.08))'"
        )
    names = [key.lstrip("+") for key in swept]
    conditions = {name: _conditions_above(name, names) for name in names}
    for key, text in only_if.items():
        name, condition = key.lstrip("+"), Condition.parse(text)
        for each in (name, condition.name):
            if each not in names:
                raise SearchError(
                    f"hydra.sweeper.only_if: {each} is not searched; there are {', '.join(names)}"
                )
        conditions[name].append(condition)
    parameters = [
        Parameter(key, _distribution(override), tuple(conditions[key.lstrip("+")]))
        for key, override in swept.items()
    ]
    return SearchSpace(tuple(fixed), tuple(_in_order(parameters)))


def as_text(value: Any) -> str:
    """A value as an override writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def _suggest(trial: Trial, parameter: Parameter) -> Any:
    name = parameter.name
    match parameter.distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"{name}: {parameter.distribution}")


def _conditions_above(name: str, names: Sequence[str]) -> list[Condition]:
    return [Condition(other) for other in names if name.startswith(f"{other}.")]


def _in_order(parameters: Sequence[Parameter]) -> Iterator[Parameter]:
    left = list(parameters)
    while left:
        names = {parameter.name for parameter in left}
        free = [p for p in left if not names.intersection(c.name for c in p.conditions)]
        if not free:
            raise SearchError(
                f"hydra.sweeper.only_if: {', '.join(sorted(names))} wait for each other"
            )
        yield from free
        left = [parameter for parameter in left if parameter not in free]


def _satisfy(
    parameter: Parameter, by_name: Mapping[str, Parameter], values: dict[str, Any]
) -> None:
    """Put values there with which the parameter is asked for; raises SearchError."""
    for condition in parameter.conditions:
        needed = by_name[condition.name]
        _satisfy(needed, by_name, values)
        candidates = needed.choices if needed.choices is not None else needed.probes
        fitting = [each for each in candidates if condition.holds({needed.name: each})]
        if not fitting:
            raise SearchError(
                f"hydra.sweeper.only_if: {parameter.name} is never asked for: {condition.name} is "
                f"none of {', '.join(condition.choices)}"
            )
        values[needed.name] = fitting[0]


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    tags = sorted(sweep.tags) if isinstance(sweep, Sweep) else []
    if unknown := [tag for tag in tags if tag != _LOG]:
        raise SearchError(f"{override.input_line}: tag {unknown[0]} is not known; there is {_LOG}")
    log = _LOG in tags
    try:
        match sweep:
            case IntervalSweep():
                return _interval(sweep, log)
            case RangeSweep():
                return _range(sweep, log)
    except ValueError as error:
        raise SearchError(f"{override.input_line}: {error}") from None
    if log:
        raise SearchError(f"{override.input_line}: {_LOG} is for intervals and ranges, not choices")
    choices = {as_text(choice): choice for choice in map(_choice, override.sweep_iterator())}
    if not choices:
        raise SearchError(f"{override.input_line}: there is nothing to choose from")
    return CategoricalDistribution(tuple(choices.values()))


def _choice(value: Any) -> Any:
    """Optuna keeps numbers and text; whatever else is kept as the command line writes it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return Transformer.str(value)


def _interval(sweep: IntervalSweep, log: bool) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("an interval needs two finite ends")
    return FloatDistribution(float(low), float(high), log=log)


def _range(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """Hydra's range, whose end is not in it."""
    every = list(sweep.range())
    if not every:
        raise ValueError("the range is empty")
    low, high = min(every), max(every)
    step = abs(sweep.step)
    if log and (step != 1 or isinstance(low, float)):
        raise ValueError("a range by logarithm takes whole numbers in steps of 1")
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, int(high), log=log, step=step)
    return FloatDistribution(float(low), float(high), step=float(step))
