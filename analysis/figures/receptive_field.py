"""How far each stage sees, in theory and in effect."""

import matplotlib
from matplotlib.figure import Figure

from analysis.figures.labels import add_key
from analysis.figures.style import RC, Styles, new_figure
from analysis.runs import Table


def receptive_fields(table: Table, styles: Styles) -> Figure | None:
    """Side of the effective (solid) and theoretical (dashed) field by stage; None: not measured."""
    measured = [variant for variant in table.variants if variant.receptive_field]
    if not measured:
        return None
    stages = list(dict.fromkeys(s for v in measured for s in v.receptive_field["stages"]))
    with matplotlib.rc_context(RC):
        figure = new_figure(6.4, 4)
        axes = figure.subplots()
        for variant in measured:
            style, found = styles[variant.digest], variant.receptive_field["stages"]
            for kind, line in (("effective", "-"), ("theoretical", "--")):
                shown = {stages.index(s): field[kind] for s, field in found.items() if field[kind]}
                axes.plot(
                    list(shown), list(shown.values()), linestyle=line, color=style.color,
                    marker=style.marker if kind == "effective" else None,
                    linewidth=1.8 if kind == "effective" else 1.0,
                )  # fmt: skip
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set_xticks(range(len(stages)), stages)
        axes.set_xlabel("stage")
        axes.set_ylabel("side of the receptive field (input pixels)")
        add_key(figure, [(each.name, styles[each.digest]) for each in measured], line=True)
        return figure
