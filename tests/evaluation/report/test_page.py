"""The page of a report, driven in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation.report.contents import HOSTILE, content

from recap.evaluation.report.content import plain
from recap.evaluation.report.page import page, script_json

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def in_browser(test: Any) -> Any:
    """A slow test that needs a browser."""
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")(test))


LIMIT = 2_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page in a browser, with everything it complained about and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_context(**options).new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_function("document.body.dataset.drawn !== undefined")

    def column(self, table: str, index: int) -> list[str]:
        """The text of a column, first lines only."""
        cells = self.page.locator(f"{table} tbody tr > :nth-child({index + 1})").all_inner_texts()
        return [cell.split("\n")[0] for cell in cells]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(page(content(3)), encoding="utf-8")
    return file


@in_browser
def test_it_opens_without_errors_and_fetches_nothing(browser: Any, file: Path) -> None:
    for scheme in ("light", "dark"):
        opened = Opened(browser, file, color_scheme=scheme)
        assert opened.messages == []
        assert [url for url in opened.requests if url != file.as_uri()] == []
        assert opened.page.locator("figure[data-chart] .plot svg:visible").count() == 8
        assert opened.page.locator("figure[data-chart] [role=img][aria-label]:visible").count() == 8


@in_browser
def test_names_that_are_scripts_are_text_everywhere(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)
    assert HOSTILE in opened.column("#tasks", 0)
    opened.page.select_option("#task-training", HOSTILE)
    opened.page.wait_for_function("name => document.body.dataset.drawn === name", arg=HOSTILE)
    assert opened.page.input_value("#task-curves") == HOSTILE
    assert HOSTILE in opened.page.locator("figure[data-chart=importance] svg").text_content()
    for summary in opened.page.locator("summary:visible").all():
        summary.click()
    assert opened.page.locator("figure[data-chart=roc] details tbody tr").count() > 10
    opened.page.select_option("#task-training", "watch time")
    opened.page.wait_for_function("document.body.dataset.drawn === 'watch time'")
    shown = opened.page.locator("#curves figure:visible").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert shown == ["means", "values"]
    assert opened.messages == []
    assert opened.page.locator("script").count() == 3


@in_browser
def test_a_column_sorts_by_its_numbers_in_both_directions_from_the_keyboard(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)

    def values() -> list[float]:
        return [float(text.replace(",", "")) for text in opened.column("#tasks", 1)]

    for _ in range(40):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.innerText") == "positives":
            break
    opened.page.keyboard.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert opened.page.get_attribute("#tasks thead th:nth-child(2)", "aria-sort") == "descending"
    opened.page.keyboard.press("Enter")
    assert values() == sorted(values())
    assert opened.page.locator("#tasks thead th[aria-sort=ascending]").count() == 1


@in_browser
def test_the_keyboard_reaches_every_control(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)
    controls = opened.page.evaluate(
        "[...document.querySelectorAll('a, button, select, summary')].filter(each => each.checkVisibility()).length"
    )
    opened.page.evaluate("document.addEventListener('focusin', e => { e.target.dataset.reached = 1; })")
    for _ in range(controls + 40):
        opened.page.keyboard.press("Tab")
    reached = opened.page.locator(":is(a, button, select, summary)[data-reached]").count()
    assert reached == controls


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_it_does_not_scroll_sideways(browser: Any, file: Path, width: int) -> None:
    opened = Opened(browser, file, viewport={"width": width, "height": 844})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width


def test_fifty_tasks_with_long_training_and_many_features_fit_into_two_megabytes() -> None:
    assert len(page(content(50, groups=200)).encode()) < LIMIT


def test_data_cannot_end_their_script_element() -> None:
    value = {HOSTILE: ["</script><script>", "<!--", "a\u2028b & c", float("nan")]}
    text = script_json(value)
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == plain(value)
    html = page(content(2, baseline=False))
    assert "<script>alert" not in html
    assert "default-src &#39;none&#39;" in html
