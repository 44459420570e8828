import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from analysis.pages.blocks import (
    MAX_EMBEDDED_PIXELS,
    MAX_EMBEDDED_WIDTH,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Picture,
    html_page,
    markdown,
)
from analysis.pages.tabular import (
    Tabular,
    latex_escape,
    latex_tabular,
    markdown_escape,
    markdown_tabular,
    text_tabular,
)

HOSTILE = '<script>alert(1)</script> & "x" | `a` _b_ *c* [d](e) #1 50% $y$ {z} ~ ^ \\'
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps the tags and the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page.replace("<wbr>", ""))  # text goes on behind it
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def test_a_terminal_grid_is_aligned_names_left_figures_right():
    grid = Tabular(("variant", "AP"), (("a", "1.0"), ("longer_name", "10.0")))
    lines = text_tabular(grid).splitlines()
    assert lines == [
        "variant        AP",
        "-----------  ----",
        "a             1.0",
        "longer_name  10.0",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        Tabular(("variant",), (("a", "b"),))


def test_markdown_cells_cannot_end_their_cell_or_row():
    text = markdown_tabular(Tabular(("variant", "AP"), ((f"{HOSTILE}\nsecond line", "1.0"),)))
    lines = text.splitlines()
    assert len(lines) == 3
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [4, 4, 4]
    assert "<script>" not in text


def test_every_special_character_of_latex_is_escaped():
    assert latex_escape("a_b & 50% #1 $x$ {y} ~ ^") == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{}"
    )
    # once, so that an escape's own braces and backslash are not escaped again
    assert latex_escape("\\") == r"\textbackslash{}"


def test_a_latex_grid_has_as_many_columns_in_every_row_as_it_declares():
    grid = Tabular(("variant", "AP", "ΔAP"), (("a_b", "1.0 ± 0.2", "-0.4 [-1.2, +0.3] ~"),))
    text = latex_tabular(grid)
    assert r"\begin{tabular}{lrr}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    (row,) = [line for line in text.splitlines() if "a\\_b" in line]
    assert row == (r"{}a\_b & 1.0 $\pm$ 0.2 & $-$0.4 [$-$1.2, +0.3] \textasciitilde{} \\")


def test_html_shows_hostile_text_as_text(tmp_path):
    picture = tmp_path / "a.svg"
    picture.write_text("<svg/>")
    blocks = [
        Heading(HOSTILE),
        Paragraph(HOSTILE),
        Bullets((HOSTILE,)),
        Code(HOSTILE),
        Tabular((HOSTILE,), ((HOSTILE,),)),
        Picture(picture, HOSTILE),
    ]
    page = Reader(html_page(HOSTILE, blocks))
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    # title, h1, the contents, h2, p, li, pre, th, td and the caption
    assert page.text.count(HOSTILE) == 10
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == HOSTILE


def test_an_html_page_needs_nothing_from_elsewhere(tmp_path):
    picture = tmp_path / "a.svg"
    picture.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    page = html_page("t", [Picture(picture, "c")])
    (image,) = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    prefix = "data:image/svg+xml;base64,"
    assert image["src"].startswith(prefix)
    inside = base64.b64decode(image["src"].removeprefix(prefix))
    assert ElementTree.fromstring(inside).tag.endswith("svg")
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page


def test_a_heavy_picture_is_embedded_as_a_light_one_of_the_same_shape(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    page = html_page("t", [Picture(tmp_path / "a.png", "c")])
    (image,) = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    prefix = "data:image/webp;base64,"
    content = base64.b64decode(image["src"].removeprefix(prefix))
    assert len(content) < (tmp_path / "a.png").stat().st_size / 4
    with Image.open(io.BytesIO(content)) as shown:
        width, height = shown.size
    assert width <= MAX_EMBEDDED_WIDTH
    assert width * height <= MAX_EMBEDDED_PIXELS
    assert height / width == pytest.approx(1.5, abs=0.01)


def test_a_heavy_picture_may_be_taller_than_webp_allows(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40_000, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    page = html_page("t", [Picture(tmp_path / "a.png", "c")])
    (image,) = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    content = base64.b64decode(image["src"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(content)) as embedded:
        assert embedded.height == 16_383


def test_every_heading_can_be_linked_to_and_no_two_alike():
    blocks = [Heading("A table!"), Heading("Errors", 3), Heading("B"), Heading("Errors", 3)]
    page = Reader(html_page("t", [*blocks, Heading("B"), Heading("×")]))
    ids = [attributes["id"] for tag, attributes in page.tags if tag in ("h2", "h3")]
    assert ids == ["a-table", "a-table-errors", "b", "b-errors", "b-2", "section"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert sorted(links) == sorted(f"#{anchor}" for anchor in [*ids, *ids])


def test_a_light_picture_is_embedded_as_it_is(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    page = html_page("t", [Picture(tmp_path / "a.png", "c")])
    assert base64.b64encode((tmp_path / "a.png").read_bytes()).decode() in page


def test_markdown_links_pictures_relative_to_its_folder(tmp_path):
    text = markdown("t", [Picture(tmp_path / "figures" / "a b.svg", "c")], tmp_path)
    assert "![c](figures/a%20b.svg)" in text


def test_a_code_block_cannot_be_closed_by_its_text(tmp_path):
    text = markdown("t", [Code("a\n```\n# not a heading")], tmp_path)
    assert text.splitlines()[2] == "````"
    assert text.rstrip().endswith("````")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("detnet59_noproj +0.4 [-0.3, +1.1] ~", "detnet59_noproj +0.4 [-0.3, +1.1] ~"),
        ("_a_ *b* `c` <d> |e| ~f~", r"\_a\_ \*b\* \`c\` \<d\> \|e\| \~f\~"),
        ("[a](b) [c][d] [e]: f", r"[a\](b) [c\][d] [e\]: f"),
    ],
)
def test_markdown_escapes_what_is_markup_and_leaves_names_readable(text, escaped):
    assert markdown_escape(text) == escaped
