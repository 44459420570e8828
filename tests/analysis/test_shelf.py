"""Documents say what the committed records say."""

import re
import shutil

import pytest
from fabricated_runs import make_truth, note_table, write_run

from analysis import shelf
from analysis.shelf import Shelf, ShelfError, asked, renewed


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results" / "small"
    for name in ("plain", "wide"):
        write_run(folder, name, make_truth())
    note_table(folder, ["plain", "wide"], "plain", "width")
    return tmp_path / "results"


DOCUMENT = """# Title

<!-- shelf: small/width -->
{content}<!-- end of shelf -->

The end.
"""


def test_a_table_is_written_between_its_comments_and_written_again_the_same(results):
    made = Shelf(results)
    written, left = renewed(DOCUMENT.format(content="stale\n"), made.text)
    assert not left
    assert "| plain |" in written
    assert "| wide |" in written
    assert "plain reaches an AP of" in written
    assert "stale" not in written
    assert written.startswith("# Title\n\n<!-- shelf: small/width -->\n\n| variant")
    assert written.endswith("<!-- end of shelf -->\n\nThe end.\n")
    assert renewed(written, made.text) == (written, [])


def test_a_table_without_its_truth_stays_as_it_is(results):
    for folder in results.glob("*/val-*"):
        shutil.rmtree(folder)
    document = DOCUMENT.format(content="as it was\n")
    assert renewed(document, Shelf(results).text) == (document, ["small/width"])


def test_a_table_that_is_not_on_the_shelf_is_refused_with_those_that_are(results):
    with pytest.raises(ShelfError, match=r"small/depth: no such table .* there are small/width"):
        Shelf(results).text("small", "depth")


def test_every_committed_table_stands_in_the_results_page():
    page = (shelf.ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert set(asked(page)) == set(Shelf().tables)


@pytest.mark.slow
@pytest.mark.parametrize("name", shelf.DOCUMENTS)
def test_the_tables_of_the_documents_are_what_the_records_say(name):
    document = (shelf.ROOT / name).read_text(encoding="utf-8")
    assert renewed(document, Shelf().text)[0] == document


def test_the_shelf_holds_no_paths_of_a_machine_and_few_bytes():
    files = [path for path in shelf.RESULTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    for record in shelf.RESULTS.rglob("record.json"):
        assert not re.findall(r"""[\s"'=]/\w+/""", record.read_text()), record
