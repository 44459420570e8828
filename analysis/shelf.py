"""Answers on the shelf: the tables of README.md and RESULTS.md, made of the committed records.

    python -m analysis.shelf            write the tables and draw the pictures anew
    python -m analysis.shelf --check    say which tables are not what the records say
    python -m analysis.shelf --notebooks    execute the notebooks anew, too

A document says where a table belongs, between two comments that Markdown does not show:

    <!-- shelf: glyphs/stage_count -->
    <!-- end of shelf -->

Truth that may not be committed lies elsewhere: tables of its runs stay as they are without it.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from analysis.figures.scale import ap_by_scale
from analysis.figures.style import save, styles
from analysis.matched import MatchedRuns, Tell, has_detections
from analysis.pages.sections import Section, make_section
from analysis.pages.tabular import TABULAR_FORMATS, markdown_escape
from analysis.runs import Table, collect

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
NOTEBOOKS = Path(__file__).with_name("notebooks")
DOCUMENTS = ("README.md", "RESULTS.md")
NUM_RESAMPLES = 1000
_BLOCK = re.compile(
    r"(<!-- shelf: (?P<runs>[\w-]+)/(?P<table>[\w,=.-]+) -->\n)"
    r"(?P<content>.*?)(?=<!-- end of shelf -->)",
    re.DOTALL,
)


class ShelfError(ValueError):
    """A document asks for what is not on the shelf; the message names both."""


@dataclass
class Shelf:
    """The committed runs, by folder of `results`; each table is made once."""

    results: Path = RESULTS
    tell: Tell = lambda line: None
    _sections: dict[tuple[str, str], Section] = field(default_factory=dict)

    @cached_property
    def tables(self) -> dict[tuple[str, str], Table]:
        """By folder and name."""
        folders = sorted(path for path in self.results.iterdir() if any(path.glob("table-*.json")))
        return {(folder.name, table.name): table for folder in folders for table in collect(folder)}

    def section(self, runs: str, name: str) -> Section | None:
        """What the report says of a table; None without its truth. Raises ShelfError."""
        if (runs, name) not in self.tables:
            there = ", ".join("/".join(key) for key in self.tables)
            raise ShelfError(f"{runs}/{name}: no such table on the shelf; there are {there}")
        table = self.tables[runs, name]
        if not all(map(has_detections, table.runs)):
            return None
        if (runs, name) not in self._sections:
            section = make_section(table, MatchedRuns(), NUM_RESAMPLES, self.tell)
            self._sections[runs, name] = section
        return self._sections[runs, name]

    def text(self, runs: str, name: str) -> str | None:
        """A table and what it shows, in Markdown; None without its truth."""
        section = self.section(runs, name)
        if section is None:
            return None
        tabulars = [TABULAR_FORMATS["md"](tabular) for tabular in section.main_tabulars]
        return "\n".join([*tabulars, f"{markdown_escape(section.findings)}\n"])


def renewed(document: str, text_of: Callable[[str, str], str | None]) -> tuple[str, list[str]]:
    """The document with its tables as the records say, and those for which there is no truth."""
    left = []

    def block(found: re.Match[str]) -> str:
        text = text_of(found["runs"], found["table"])
        if text is None:
            left.append(f"{found['runs']}/{found['table']}")
        return found[1] + (found["content"] if text is None else f"\n{text}\n")

    return _BLOCK.sub(block, document), left


def asked(document: str) -> Iterator[tuple[str, str]]:
    """Folder and name of every table that the document asks for."""
    for found in _BLOCK.finditer(document):
        yield found["runs"], found["table"]


def draw(shelf: Shelf, folder: Path, shown: str) -> None:
    """AP by object scale of every table whose picture, `<runs>-<table>.png`, `shown` names."""
    for (runs, name), table in shelf.tables.items():
        if f"{runs}-{name}.png" not in shown:
            continue
        if (section := shelf.section(runs, name)) is not None:
            differences = section.compared.metrics
            figure = ap_by_scale(table, section.summary, differences, styles([table]))
            _, svg = save(figure, folder, f"{runs}-{name}")
            svg.unlink()  # the documents show the PNG, and the shelf is to stay small


def execute_notebooks() -> None:
    """Put what the committed records say now into the notebooks."""
    import nbformat  # of the extra `dev`, which nobody who only reads needs
    from nbclient import NotebookClient

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(NOTEBOOKS)}}
        NotebookClient(notebook, resources=resources, record_timing=False).execute()
        nbformat.write(notebook, path)
        print(f"{path.name}: executed")


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where a table is not what the records say, 2 where one is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.shelf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--notebooks", action="store_true", help="execute the notebooks, too")
    options = parser.parse_args(argv)
    only_check = options.check
    shelf = Shelf(tell=lambda line: print(line, file=sys.stderr, flush=True))
    differs = False
    try:
        for name in DOCUMENTS:
            document = (ROOT / name).read_text(encoding="utf-8")
            new, left = renewed(document, shelf.text)
            for table in left:
                print(f"{name}: {table}: its truth is not here, the table is left as it is")
            if new != document and only_check:
                differs = True
                print(f"{name}: is not what the records say: run python -m analysis.shelf")
            elif new != document:
                (ROOT / name).write_text(new, encoding="utf-8")
                print(f"{name}: written")
    except ShelfError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return 2
    if not only_check:
        shown = "".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
        draw(shelf, RESULTS / "figures", shown)
    if options.notebooks:
        execute_notebooks()
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
