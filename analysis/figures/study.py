"""A search: its objectives trial by trial, or one against the other with the front."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.evaluation.metrics import METRICS
from ablations.study.record import Study
from analysis.figures.style import PALETTE, RC, SOFT, new_figure
from analysis.study import leading

_MARKERS = {"done": "o", "pruned": "x", "failed": "v"}


def search_history(study: Study, frame: pd.DataFrame) -> Figure | None:
    """The objectives by trial, with the best so far; `frame` is that of `analysis.study.history`.

    Of two objectives or more, the second over the first, the front joined. None where no trial is
    done.
    """
    if not study.done:
        return None
    names = list(study.objectives)
    with matplotlib.rc_context(RC):
        figure = new_figure(6.4, 3.6)
        axes = figure.subplots()
        if len(names) == 1:
            (name,) = names
            done = frame[frame["state"] == "done"]
            axes.plot(
                done["trial"], _scaled(done[name], name), "o", color=PALETTE[0], label="trial"
            )
            axes.step(
                frame["trial"], _scaled(frame["best"], name), where="post", color=PALETTE[1],
                label="best so far",
            )  # fmt: skip
            for state in ("pruned", "failed"):
                at = frame[frame["state"] == state]["trial"]
                if len(at):
                    axes.plot(
                        at, [0.02] * len(at), _MARKERS[state], color=SOFT, label=state,
                        transform=axes.get_xaxis_transform(),
                    )  # fmt: skip
            axes.set_xlabel("trial")
            axes.set_ylabel(_label(name))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            first, second = names[:2]
            done = frame[frame["state"] == "done"]
            axes.plot(
                _scaled(done[second], second), _scaled(done[first], first), "o", color=PALETTE[0],
                label="trial",
            )  # fmt: skip
            numbers = {trial.number for trial in leading(study)}
            front = done[done["trial"].isin(numbers)].sort_values(second)
            axes.plot(
                _scaled(front[second], second), _scaled(front[first], first), "--s",
                color=PALETTE[1], label="front",
            )  # fmt: skip
            axes.set_xlabel(_label(second))
            axes.set_ylabel(_label(first))
        axes.margins(0.08)
        axes.legend()
        return figure


def _scaled(values: pd.Series, name: str) -> pd.Series:
    return 100 * values if name in METRICS else values


def _label(name: str) -> str:
    return f"{name} (percent points)" if name in METRICS else name.replace("_", " ")
