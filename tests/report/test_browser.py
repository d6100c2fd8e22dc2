"The report in a real browser."
import pytest
from browser import WIDTHS, chromium, faults, opened

from mmtmerge.core import root

REPORT = root() / "outputs/laptop/index.html"
pytestmark = pytest.mark.skipif(not REPORT.exists(), reason="the laptop study is not here")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_fits_and_is_whole(browser, width):
    assert faults(browser, REPORT, width) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_executed_reports_fit_and_are_whole(browser, width):
    pages = sorted((REPORT.parent / "report").glob("*.html"))
    assert pages
    assert {page.name: found for page in pages if (found := faults(browser, page, width))} == {}


def test_what_is_wrong_is_found(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<meta charset='utf-8'><p style='width:500px'>far</p><img src='none.png' alt='a picture'>"
                    "<div style='overflow:auto'><p style='width:500px'>in a frame that scrolls</p></div>"
                    "<script>console.error('said'); nothing()</script>")
    found = "\n".join(faults(browser, page, 400))
    for fault in ("said", "nothing is not defined", "none.png", "no image: a picture", "wider than 400: P : far"):
        assert fault in found
    assert "frame" not in found
    assert "wider" not in "\n".join(faults(browser, page, 1400))


@pytest.mark.parametrize("verdict", ["holds", "does-not-hold", "cannot-tell", "not-tested"])
def test_the_filter_filters(browser, verdict):
    page, complaints = opened(browser, REPORT)
    rows = page.locator(".claims tbody tr")
    total = rows.count()
    page.locator(f"form input[value='{verdict}']").check()
    left = page.locator(".claims tbody tr:visible")
    assert 0 < left.count() < total
    assert left.count() == page.locator(f".claims tbody tr.{verdict}").count()
    page.locator("form input").first.check()
    assert page.locator(".claims tbody tr:visible").count() == total
    assert complaints == []


def test_the_dark_page_is_dark(browser):
    page, _ = opened(browser, REPORT, scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = opened(browser, REPORT)[0].evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark, light) == ("rgb(22, 24, 28)", "rgb(255, 255, 255)")


def test_tables_are_whole_on_a_wide_screen(browser):
    page, _ = opened(browser, REPORT, 1400)
    cut = "() => [...document.querySelectorAll('.wide')].filter(box => box.scrollWidth > box.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
