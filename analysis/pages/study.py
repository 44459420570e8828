"""The report's part on a search."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ablations.evaluation.metrics import METRICS
from ablations.record import Run
from ablations.study.record import STATES, Study
from analysis.figures.study import search_history
from analysis.figures.style import save
from analysis.frames import NOISE, mark
from analysis.matched import MatchedRuns, Tell
from analysis.pages.blocks import Block, Bullets, Heading, Paragraph, Picture
from analysis.pages.numbers import ABSENT, difference_text, points
from analysis.pages.tabular import Tabular
from analysis.study import Apart, history, importance, leading, told_apart

_FRONT = "The front: trials that no other beats in all objectives."
_LEADING = "The best trials."
_TOLD_APART = (
    "A trial is told from another only where the difference on the same images is real after "
    "correction over all pairs. Noise of training is not in it, and the best of many trials is a "
    "little lucky: train it with more seeds."
)


def study_blocks(
    study: Study,
    runs: Sequence[Run],
    matched: MatchedRuns,
    num_resamples: int,
    figures: Path,
    tell: Tell = lambda line: None,
) -> list[Block]:
    """What the report says of a study; its picture is written to the folder `figures`."""
    frame = history(study)
    apart = told_apart(study, runs, matched, num_resamples, tell)
    states = [trial.state for trial in study.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    objectives = ", ".join(f"{name} ({how})" for name, how in study.objectives.items())
    blocks: list[Block] = [
        Heading(f"Search: {study.name}"),
        Paragraph(f"Objectives: {objectives}. Sampler {study.sampler}. Trials: {counts}."),
    ]
    if study.done:
        blocks += [_leading_tabular(study, apart)]
        what = _LEADING if len(study.objectives) == 1 else _FRONT
        blocks += [Paragraph(what if apart is None else f"{what} {_TOLD_APART}")]
    if apart is not None and apart.left_out:
        blocks += [Bullets(apart.left_out)]
    if (figure := search_history(study, frame)) is not None:
        _, svg = save(figure, figures, f"study-{study.name}-history")
        caption = (
            "The objective by trial."
            if len(study.objectives) == 1
            else "The objectives of every trial that is done, and the front."
        )
        blocks += [Picture(svg, caption)]
    shares = importance(study)
    if len(shares):
        blocks += [
            Heading("Which parameters matter", 3),
            _importance_tabular(study, shares),
            Paragraph(
                "Shares of what the parameters explain of being among the best tenth of trials "
                "(PED-ANOVA); with few trials, a first impression."
            ),
        ]
    if others := [trial for trial in study.trials if trial.reason]:
        blocks += [
            Heading("Trials without a result", 3),
            Bullets(tuple(f"trial {t.number}: {t.state}, {t.reason}" for t in others)),
        ]
    return blocks


def _leading_tabular(study: Study, apart: Apart | None) -> Tabular:
    trials = leading(study)
    best = trials[0].number
    names = list(study.distributions)
    rows = []
    for trial in trials:
        assert trial.values is not None
        values = [
            _value_text(name, value)
            for name, value in zip(study.objectives, trial.values, strict=True)
        ]
        rows.append(
            (
                str(trial.number),
                *(_parameter_text(trial.params.get(name)) for name in names),
                *values,
                *_apart_cells(apart, best, trial.number),
            )
        )
    metric = "" if apart is None else apart.metric
    header = (f"Δ{metric} to trial {best}", "not told from") if apart is not None else ()
    return Tabular(("trial", *names, *study.objectives, *header), tuple(rows), 1 + len(names))


def _apart_cells(apart: Apart | None, best: int, number: int) -> tuple[str, ...]:
    if apart is None:
        return ()
    alike = ", ".join(map(str, apart.not_told_from(number))) or ABSENT
    each = apart.difference(best, number)
    if each is None:
        return ("best" if number == best else ABSENT, alike)
    text = difference_text(-each.value, -each.high, -each.low, mark(each.real) or NOISE)
    return (text, alike)


def _value_text(name: str, value: float) -> str:
    return points(value) if name in METRICS else f"{value:.4g}"


def _parameter_text(value: object) -> str:
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance_tabular(study: Study, shares: pd.DataFrame) -> Tabular:
    rows = [
        (str(row["parameter"]), *(f"{row[name]:.2f}" for name in study.objectives))
        for row in shares.to_dict("records")
    ]
    return Tabular(("parameter", *study.objectives), tuple(rows))
