import csv

import pandas as pd
import pytest

from analysis.pages.spreadsheet import write_csv


def cells(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", '=HYPERLINK("x")', "\ta"])
def test_a_name_that_a_spreadsheet_takes_for_a_formula_is_a_text(tmp_path, name):
    write_csv(pd.DataFrame({"variant": [name], name: [1]}), tmp_path / "a.csv")
    assert cells(tmp_path / "a.csv") == [["variant", f"'{name}"], [f"'{name}", "1"]]


def test_numbers_and_other_names_stay_as_they_are(tmp_path):
    frame = pd.DataFrame({"variant": ["a-b", "a=b"], "AP": [-0.25, 1e-9], "mark": ["~", ""]})
    write_csv(frame, tmp_path / "a.csv")
    assert cells(tmp_path / "a.csv") == [
        ["variant", "AP", "mark"],
        ["a-b", "-0.25", "~"],
        ["a=b", "1e-09", ""],
    ]
