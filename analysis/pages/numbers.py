"""Numbers as the text of a table's cells: AP in percent points, as the paper has it."""

import math

ABSENT = "-"


def points(fraction: float | None, sign: bool = False) -> str:
    """A fraction in percent points with one decimal; a dash where it is absent."""
    if fraction is None or math.isnan(fraction):
        return ABSENT
    text = f"{100 * fraction:{'+' if sign else ''}.1f}"
    return text.replace("-0.0", "+0.0" if sign else "0.0") if float(text) == 0 else text


def mean_and_spread(mean: float, spread: float) -> str:
    return points(mean) if math.isnan(spread) else f"{points(mean)} ± {points(spread)}"


def difference_text(value: float, low: float, high: float, mark: str) -> str:
    """`+1.3 [+0.6, +2.0] *`; without the interval where the mark is "" or an end is not known."""
    if not mark or any(map(math.isnan, (value, low, high))):
        return points(value, sign=True)
    return (
        f"{points(value, sign=True)} [{points(low, sign=True)}, {points(high, sign=True)}] {mark}"
    )


def count(value: float | None, unit: float = 1, digits: int = 0) -> str:
    """`value` in units of `unit`; a dash where it is absent."""
    return ABSENT if value is None or math.isnan(value) else f"{value / unit:.{digits}f}"


def capitalized(sentence: str) -> str:
    """With a capital letter in front; the rest stays as it is."""
    return sentence[:1].upper() + sentence[1:]
