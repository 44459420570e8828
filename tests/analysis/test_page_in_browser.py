"""The report's page in a real browser: Chromium, without a network."""

import shutil

import pytest
from fabricated_runs import make_truth, note_table, write_run

from analysis.report import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
LONG = "detnet59,backbone.stages=c7=depth=3+width=256,stages.c6.dilation={}"
SHORT = ["stages.c6.dilation=1", "detnet59,stages.c6.dilation=+2"]  # of 20 and 30 letters

pytestmark = [
    pytest.mark.slow,  # draws a report of twenty variants and opens it four times
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The report of twenty variants with long names, masks and an unfinished run."""
    folder = tmp_path_factory.mktemp("page")
    names = [LONG.format(n) for n in range(20)]
    for n, name in enumerate(names):
        write_run(
            folder / "runs",
            name,
            make_truth(4),
            skill=0.3 + 0.03 * n,
            masks=True,
            macs=(9 - n) * 1e9 + 2e10,
        )
    note_table(folder / "runs", [*names, "detnet110"], names[0], "a table & <its> name")
    assert main([str(folder / "runs"), "--out", str(folder / "out"), "--resamples", "100"]) == 0
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(
    params=[(400, "light"), (400, "dark"), (1280, "light"), (1280, "dark")],
    ids=lambda shape: f"{shape[1]}-{shape[0]}",
)
def page(request, browser, page_file):
    """The opened page; fails where the browser's console has an error, or a request leaves it."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    opened, faults = context.new_page(), []
    opened.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else 0)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
    opened.goto(page_file.as_uri())
    opened.wait_for_load_state("load")
    yield opened
    context.close()
    assert not faults


def test_nothing_is_wider_than_the_window_and_every_picture_is_shown(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.clientWidth])")
    assert len(sizes) > 8
    assert all(natural > 300 and shown >= 300 for natural, shown in sizes)


def test_text_stands_out_from_its_ground(page):
    contrast = page.evaluate(
        """() => {
          const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = (color) => {
            const [r, g, b] = color.match(/\\d+/g).map(Number).map(channel);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = light(getComputedStyle(document.body).backgroundColor);
          return ["p", "td", "th", "figcaption", "nav a"].map((name) => {
            const ink = light(getComputedStyle(document.querySelector(name)).color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          });
        }"""
    )
    assert min(contrast) >= 4.5  # WCAG 2, of small text


def test_every_entry_of_the_contents_leads_to_its_section(page):
    targets = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    assert len(targets) == len(set(targets)) > 8
    for target in targets:
        assert page.locator(f"[id='{target[1:]}']").count() == 1
    page.evaluate("location.hash = '#table-a-table-its-name-ap-against-cost'")
    top = page.locator("[id$='ap-against-cost']").evaluate("e => e.getBoundingClientRect().top")
    assert -1 <= top < 900


def column(page, place):
    script = "(rows, n) => rows.map(r => r.cells[n].textContent)"
    return page.locator("table").first.locator("tbody tr").evaluate_all(script, place)


def test_a_long_name_wraps_between_its_words(page):
    lines = page.locator("tbody td").first.evaluate(
        """(cell) => {
          const rows = new Map();
          const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          for (let text = walker.nextNode(); text; text = walker.nextNode()) {
            for (let i = 0; i < text.length; i++) {
              const range = document.createRange();
              range.setStart(text, i);
              range.setEnd(text, i + 1);
              const top = Math.round(range.getBoundingClientRect().top);
              rows.set(top, (rows.get(top) ?? "") + text.data[i]);
            }
          }
          return [...rows.values()];
        }"""
    )
    assert len(lines) > 1
    assert "".join(lines) == LONG.format(0)
    assert all(line.endswith((",", ".")) for line in lines[:-1])


@pytest.mark.parametrize("width", [400, 1280])
def test_short_names_stand_on_one_line(browser, tmp_path, width):
    for name in SHORT:
        write_run(tmp_path / "runs", name, make_truth(4), masks=True)
    words = ["--resamples", "100", "--pictures", "none"]
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words]) == 0
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "out" / "report.html").as_uri())
    num_lines = page.locator("tbody td.name").evaluate_all(
        """(cells) => cells.filter(cell => cell.textContent.length <= 30).map(cell => {
          const range = document.createRange();
          range.selectNodeContents(cell);
          const shown = [...range.getClientRects()].filter(r => r.width > 0);
          return [cell.textContent, new Set(shown.map(r => Math.round(r.top))).size];
        })"""
    )
    assert set(SHORT) <= {name for name, _ in num_lines}
    assert {name for name, lines in num_lines if lines > 1} == set()


def test_a_click_on_a_header_sorts_falling_then_rising(page):
    headers = page.locator("table").first.locator("th")
    names = headers.all_inner_texts()
    place = next(n for n, name in enumerate(names) if name.startswith("MACs"))
    before = column(page, 0)
    headers.nth(place).locator("button").click()
    falling = [float(text) for text in column(page, place)]
    assert falling == sorted(falling, reverse=True)
    assert headers.nth(place).get_attribute("aria-sort") == "descending"
    headers.nth(place).locator("button").click()
    rising = [float(text) for text in column(page, place)]
    assert rising == sorted(rising) != falling
    # whole rows move, and none is lost
    assert sorted(column(page, 0)) == sorted(before)
    assert column(page, 0) != before


def test_a_difference_is_sorted_by_its_value_and_what_is_absent_stays_last(page):
    headers = page.locator("table").first.locator("th")
    place = headers.all_inner_texts().index("ΔAP")
    for _ in range(2):
        headers.nth(place).locator("button").click()
        cells = column(page, place)
        assert cells[-1] == "baseline"
        values = [float(text.split()[0]) for text in cells[:-1]]
        assert values in (sorted(values), sorted(values, reverse=True))
