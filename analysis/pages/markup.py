"""One table of text cells and one list of blocks, written as Markdown, HTML, LaTeX or plain text.

The report is composed once, from blocks; each format is one function over them.
"""

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Picture:
    """A picture file; the report in HTML carries it inside, the one in Markdown links to it."""

    path: Path
    caption: str


Block = Tabular | Heading | Paragraph | Bullets | Code | Picture

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


def html_tabular(tabular: Tabular) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        classes = [
            ' class="name"' if index < tabular.num_labels else "" for index, _ in enumerate(cells)
        ]
        marked = (
            f"<{tag}{style_class}>{html.escape(cell)}</{tag}>"
            for style_class, cell in zip(classes, cells, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    head = line(tabular.header, "th")
    body = "\n".join(line(row, "td") for row in tabular.rows)
    return (
        '<div class="scroll"><table>\n'
        f"<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _html_picture(picture: Picture) -> str:
    media_type = "svg+xml" if picture.path.suffix == ".svg" else picture.path.suffix.lstrip(".")
    content = base64.b64encode(picture.path.read_bytes()).decode()
    caption = html.escape(picture.caption)
    return (
        f'<figure><img src="data:image/{media_type};base64,{content}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _markdown_picture(picture: Picture, folder: Path) -> str:
    link = picture.path.relative_to(folder).as_posix().replace(" ", "%20")
    return f"![{markdown_escape(picture.caption)}]({link})\n\n{markdown_escape(picture.caption)}"


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def markdown(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The report as Markdown; pictures are linked relative to `folder`, where it will lie."""

    def block_text(block: Block) -> str:
        match block:
            case Tabular():
                return markdown_tabular(block)
            case Heading():
                return f"{'#' * block.level} {markdown_escape(block.text)}"
            case Paragraph():
                return markdown_escape(block.text)
            case Bullets():
                return "\n".join(f"- {markdown_escape(item)}" for item in block.items)
            case Code():
                return _fenced(block.text)
            case Picture():
                return _markdown_picture(block, folder)

    return "\n\n".join([f"# {markdown_escape(title)}", *map(block_text, blocks)]) + "\n"


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --ground: #ffffff;
  --line: #d9dde1; --band: #f4f6f8; --link: #0b63b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #a0a7ae; --ground: #16191c;
  --line: #383e44; --band: #1f2327; --link: #7ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 2rem 1.5rem 4rem; color: var(--ink);
  background: var(--ground); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, ul { max-width: 52rem; }
li { margin: .2rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .3rem .55rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; }
.name { text-align: left; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); padding: .5rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; max-width: 52rem; }
pre { background: var(--band); border-radius: 6px; padding: .75rem 1rem; overflow-x: auto;
  font-size: .8rem; line-height: 1.5; }
"""


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The report as one page that needs no other file: style and pictures are inside."""

    def block_text(block: Block) -> str:
        match block:
            case Tabular():
                return html_tabular(block)
            case Heading():
                return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
            case Paragraph():
                return f"<p>{html.escape(block.text)}</p>"
            case Bullets():
                items = "\n".join(f"<li>{html.escape(item)}</li>" for item in block.items)
                return f"<ul>\n{items}\n</ul>"
            case Code():
                return f"<pre>{html.escape(block.text)}</pre>"
            case Picture():
                return _html_picture(block)

    body = "\n".join(map(block_text, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


TABULAR_FORMATS: dict[str, Callable[[Tabular], str]] = {
    "md": lambda tabular: markdown_tabular(tabular) + "\n",
    "tex": latex_tabular,
}
