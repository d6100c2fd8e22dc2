"Pages in headless Chromium: what is wrong with them at a telephone's width and at a screen's."
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (400, 1400)

TOO_WIDE = """() => {
    const hides = around => {
        const style = getComputedStyle(around);
        return style.overflowX !== 'visible' || style.position === 'fixed';
    };
    const framed = part => part !== null && (hides(part) || framed(part.parentElement));
    const right = document.documentElement.clientWidth + 1;
    return [...document.querySelectorAll('body *')]
        .filter(part => part.getClientRects().length && part.getBoundingClientRect().right > right)
        .filter(part => !framed(part.parentElement))
        .map(part => `${part.tagName} ${part.className}: ${part.textContent.trim().slice(0, 60)}`);
}"""
MISSING = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.alt || image.src)"


@contextmanager
def chromium():
    "A running browser; skips, with the reason, where there is none."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with playwright.sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def opened(browser, path, width=WIDTHS[-1], scheme="light"):
    "(page, its complaints): a file opened at a width; complaints fill while the page is used."
    page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    complaints = []
    page.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"not loaded: {request.url[:200]}"))
    page.goto(path.as_uri())
    return page, complaints


def faults(browser, path, width):
    "What is wrong with a page: complaints, missing images, parts that are wider than the page."
    page, complaints = opened(browser, path, width)
    found = [*complaints, *(f"no image: {name}" for name in page.evaluate(MISSING))]
    found += [f"wider than {width}: {part}" for part in page.evaluate(TOO_WIDE)]
    page.close()
    return found
