"""The book of `make book` in a browser: pages, figures, search, and the width of a phone.

`make browser-test` runs this file with a Chromium; `make test` does not collect it.
"""

import functools
import http.server
import threading

import pytest
from chromium import ROOT

pytest_plugins = ("chromium",)  # browser, screenshots
BOOK = ROOT / "build" / "book"


@pytest.fixture(scope="module")
def book():
    """The address of the book, served as any web server would."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=BOOK))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_notebook_has_its_figures(browser, book, screenshots):
    page, problems = browser.new_page(viewport={"width": 1300, "height": 1000}), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{book}/notebooks/01_lora_and_customisation.html")
    widths = page.evaluate("[...document.querySelectorAll('article img')].map(i => [i.naturalWidth, i.clientWidth])")
    assert len(widths) >= 10 and all(natural > 0 and shown > 0 for natural, shown in widths)
    page.locator("article img").nth(3).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "book.png")
    assert not problems
    page.close()


def test_formulas_are_drawn_without_the_network(browser, book, screenshots):
    page = browser.new_page()
    page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
    page.goto(f"{book}/notebooks/02_c_lora_and_saturation.html")
    page.wait_for_selector("mjx-container", timeout=30_000)
    assert page.locator("mjx-container").count() > 10 and not page.locator("mjx-merror").count()
    page.locator("mjx-container[display=true]").first.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "formulas.png")
    page.close()


def test_every_figure_has_an_alternative_text(browser, book):
    page = browser.new_page()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page.goto(f"{book}/notebooks/{notebook.stem}.html")
        texts = page.evaluate("[...document.querySelectorAll('.cell_output img')].map(image => image.alt)")
        assert texts and all(len(text) >= 40 for text in texts), notebook.name
    page.close()


def test_the_book_is_searched_without_a_server(browser, book, screenshots):
    page = browser.new_page()
    page.goto(f"{book}/search.html?q=saturation")
    page.wait_for_selector("#search-results li", timeout=30_000)
    found = page.locator("#search-results").inner_text()
    assert "C-LoRA and saturation" in found
    page.screenshot(path=screenshots / "search.png")
    page.close()


@pytest.mark.parametrize("name", ["docs/index", "notebooks/01_lora_and_customisation", "results/TABLES", "docs/api"])
def test_a_page_fits_a_phone(browser, book, screenshots, name):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{book}/{name}.html")
    page.wait_for_timeout(500)
    page.screenshot(path=screenshots / f"phone-{name.replace('/', '-')}.png")
    page.evaluate("window.scrollTo(1000, 0)")
    assert page.evaluate("window.scrollX") == 0, "it scrolls sideways"
    across = "e => e.getBoundingClientRect().left < 380 && e.getBoundingClientRect().right > 395"
    boxes = "p, h1, h2, dt, pre, .cell_output img, table"
    inside = "e => !e.closest('pre, .pst-scrollable-table-container, table')"
    wide = page.evaluate(f"[...document.querySelectorAll('article {boxes}')].filter({across}).filter({inside}).length")
    assert wide == 0
    page.close()
