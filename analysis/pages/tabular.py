"""A table as text: for a terminal, in Markdown and in LaTeX. (HTML is the page template's part.)"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tabular:
    """A table of text cells; the columns before `num_labels` are names, the others figures."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"row {row} has {len(row)} cells, the header {len(self.header)}")

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return markdown_tabular(self)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
}
# what is markup anywhere, "_" at a word's edge, "~" touching text, and "]" that would make a link
_MARKDOWN = re.compile(r"[\\`*<>|]|(?<![^\W_])_|_(?![^\W_])|~(?=\S)|(?<=\S)~|\](?=[(\[:])")


def latex_escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def markdown_escape(text: str) -> str:
    """Escape what Markdown would read as markup, and fold line breaks, which end a table's row."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.splitlines()))


def _is_signed_number(text: str) -> bool:
    return text[:1] in "+-" and text[1:2].isdigit()


def _latex_figure(text: str) -> str:
    """A figure cell: a leading minus, or one after a bracket or comma, is set as a minus sign."""
    words = latex_escape(text).split(" ")
    return " ".join(
        word.replace("-", "$-$", 1) if _is_signed_number(word.lstrip("[")) else word
        for word in words
    )


def text_tabular(tabular: Tabular) -> str:
    """The table for a terminal: names to the left, figures to the right."""
    columns = list(zip(tabular.header, *tabular.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if index < tabular.num_labels else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(tabular.header), rule, *map(line, tabular.rows)])


def markdown_tabular(tabular: Tabular) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = [
        "---" if index < tabular.num_labels else "---:" for index, _ in enumerate(tabular.header)
    ]
    escaped = [[markdown_escape(cell) for cell in row] for row in (tabular.header, *tabular.rows)]
    return "\n".join([line(escaped[0]), line(rule), *map(line, escaped[1:])])


def latex_tabular(tabular: Tabular) -> str:
    r"""A `tabular` in booktabs' style, to be read with `\input` inside a `table`."""
    num_figures = len(tabular.header) - tabular.num_labels
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * tabular.num_labels}{'r' * num_figures}}}",
        r"\toprule",
        " & ".join(map(latex_escape, tabular.header)) + r" \\",
        r"\midrule",
    ]
    for row in tabular.rows:
        names = map(latex_escape, row[: tabular.num_labels])
        figures = map(_latex_figure, row[tabular.num_labels :])
        # braces keep a cell that starts with "[" from being read as an argument of \\
        lines.append("{}" + " & ".join([*names, *figures]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


TABULAR_FORMATS: dict[str, Callable[[Tabular], str]] = {
    "md": lambda tabular: markdown_tabular(tabular) + "\n",
    "tex": latex_tabular,
}
"""How a tabular is written to a file, by the file's ending."""
