"""Numbers know neither figures nor pages, and figures know no pages."""

import pytest
from test_architecture import ROOT, imports, is_below

ANALYSIS = ROOT / "analysis"
SHOWING = ("report", "compare", "shelf", "__init__")
"""The commands, and the door for notebooks, which shows what the report shows."""
NUMBERS = sorted(path for path in ANALYSIS.glob("*.py") if path.stem not in SHOWING)


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: path.stem)
def test_numbers_are_made_without_figures_and_pages(path):
    assert not [n for n in imports(path) if is_below(n, ["analysis.figures", "analysis.pages"])]


@pytest.mark.parametrize("path", sorted(ANALYSIS.glob("figures/*.py")), ids=lambda path: path.stem)
def test_figures_are_drawn_without_pages(path):
    assert not [n for n in imports(path) if is_below(n, ["analysis.pages"])]
