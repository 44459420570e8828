"""What checks a field of the configuration: the one sentence that names it and the remedy."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from ablations.evaluation.faults import shown

MAX_WHOLE = 2**31 - 1
"""The largest whole number that every library below takes."""


class ConfigError(ValueError):
    """A value of the configuration is wrong; the message names the field and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or all that there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def require(holds: bool, name: str, value: object, remedy: str) -> None:
    """Raises ConfigError unless it holds."""
    if not holds:
        text = value if isinstance(value, str) and len(value) <= 80 else shown(value)
        raise ConfigError(f"{name}={text}: give {remedy}")


def require_choice(config: Any, where: str, name: str, choices: Iterable[str]) -> None:
    """Raises ConfigError for a field that is none of the choices."""
    value = getattr(config, name)
    require(value in choices, f"{where}.{name}", value, f"one of {', '.join(choices)}")


def require_number(
    config: Any,
    where: str,
    name: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    or_null: bool = False,
) -> None:
    """Raises ConfigError for a field that is not finite or out of bounds."""
    value = getattr(config, name)
    if or_null and value is None:
        return
    kind = "a finite number"
    if isinstance(value, int):
        kind = "a whole number"
        most = min(most, MAX_WHOLE) if value > MAX_WHOLE else most
    bounds = [
        f"{word} {bound:.12g}"
        for word, bound in (("above", above), ("at least", least), ("at most", most))
        if math.isfinite(bound)
    ]
    remedy = f"{kind} {' and '.join(bounds)}"
    holds = math.isfinite(value) and value > above and least <= value <= most
    require(holds, f"{where}.{name}", value, f"{remedy}, or null" if or_null else remedy)
