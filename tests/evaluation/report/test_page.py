"""The page of a report, driven in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation.report.contents import HOSTILE, content

from recap.evaluation.plain import to_plain
from recap.evaluation.report.page import _with_breaks, page, script_json

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

    def __init__(self, browser: Any, file: Path) -> None:
        self.page = browser.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("body[data-drawn]")  # wait_for_function would need unsafe-eval

    def column(self, table: str, index: int) -> list[str]:
        """The text of a column, first lines only."""
        cells = self.page.locator(f"{table} tbody tr > :nth-child({index + 1})").all_inner_texts()
        return [cell.split("\n")[0] for cell in cells]

    def select(self, task: str) -> None:
        self.page.select_option("#task-curves", task)
        sync_api.expect(self.page.locator("body")).to_have_attribute("data-drawn", task)


@pytest.fixture(scope="module")
def whole() -> str:
    """The page as HTML."""
    return page(content(3))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, whole: str) -> Path:
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(whole, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    """One page for all tests, each of which leaves it whole."""
    opened = Opened(browser, file)
    yield opened
    assert opened.messages == []
    assert opened.requests == [file.as_uri()]


@in_browser
def test_it_draws_every_chart_in_light_and_dark_and_does_not_scroll_sideways(opened: Opened) -> None:
    for scheme, width in (("dark", 390), ("light", 1280)):
        opened.page.set_viewport_size({"width": width, "height": 844})
        opened.page.emulate_media(color_scheme=scheme)
        sync_api.expect(opened.page.locator("figure[data-chart] .plot svg:visible")).to_have_count(8)
        assert opened.page.locator("figure[data-chart] [role=img][aria-label]:visible").count() == 8
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width


@in_browser
def test_names_that_are_scripts_are_text_everywhere(opened: Opened) -> None:
    assert HOSTILE in opened.column("#tasks", 0)
    opened.select(HOSTILE)
    assert opened.page.input_value("#task-curves") == HOSTILE
    assert HOSTILE in opened.page.locator("figure[data-chart=importance] svg").text_content()
    for summary in opened.page.locator("summary:visible").all():
        summary.click()
    assert opened.page.locator("figure[data-chart=roc] details tbody tr").count() > 10
    assert opened.column("#values", 0)[:2] == [f"{HOSTILE}[0]", f"{HOSTILE}[1]"]
    assert opened.column("#values", 1)[:3] == ["1", "0.5", "0.333"]
    assert opened.page.locator("script").count() == 3


@in_browser
def test_a_task_has_the_charts_of_its_kind_and_a_sentence_in_place_of_those_without_data(opened: Opened) -> None:
    opened.select("watch time")
    shown = opened.page.locator("#curves figure:visible").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert shown == ["means", "values"]
    empty = opened.page.locator("#training .empty:visible").all_inner_texts()
    assert empty[:2] == [
        "The training recorded no loss of this task.",
        "The training recorded no AUC or XAUC of this task on this split.",
    ]


@in_browser
def test_a_column_sorts_by_its_numbers_in_both_directions_from_the_keyboard(opened: Opened) -> None:
    def values() -> list[float]:
        return [float(text.replace(",", "")) for text in opened.column("#tasks", 1)]

    opened.page.locator("#tasks thead button", has_text="positives").focus()
    opened.page.keyboard.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert opened.page.get_attribute("#tasks thead th:nth-child(2)", "aria-sort") == "descending"
    opened.page.keyboard.press("Enter")
    assert values() == sorted(values())
    assert opened.page.locator("#tasks thead th[aria-sort=ascending]").count() == 1


@in_browser
def test_the_keyboard_reaches_every_control(opened: Opened) -> None:
    controls = opened.page.evaluate(
        "[...document.querySelectorAll('a, button, select, summary')].filter(each => each.checkVisibility()).length"
    )
    opened.page.evaluate("document.addEventListener('focusin', e => { e.target.dataset.reached = 1; })")
    for _ in range(controls + 40):
        opened.page.keyboard.press("Tab")
    reached = opened.page.locator(":is(a, button, select, summary)[data-reached]").count()
    assert reached == controls


def test_the_first_screen_counts_the_checks_that_failed(whole: str) -> None:
    assert '<p>Checks: <a href="#checks">1 warning</a></p>' in whole
    assert 'id="checks"' in whole
    none = page(replace(content(2), findings=[], training={}, curves={}, importance={}))
    assert "<p>Checks: none failed</p>" in none
    assert "Checks: " not in page(replace(content(2), findings=[], checked=False, training={}, curves={}))


def test_p_values_of_zero_and_calibration_are_told_as_they_are(whole: str) -> None:
    assert "&lt; 1e-16" in whole
    assert re.search(r"0\.8000 → \d\.\d{4}", whole)
    assert "0.31000 → –" in whole


def test_short_names_do_not_break_and_long_ones_only_after_their_separators() -> None:
    assert _with_breaks("is_negative_feedback") == "is_negative_feedback"
    assert _with_breaks("a_very_long_name_of_some_task & co") == "a_very_long_name_of_<wbr>some_task &amp; co"
    assert _with_breaks("x" * 30) == "x" * 24 + "<wbr>" + "x" * 6


def test_fifty_tasks_with_long_training_and_many_features_fit_into_two_megabytes() -> None:
    assert len(page(content(50, groups=200)).encode()) < LIMIT


def test_data_cannot_end_their_script_element() -> None:
    value = {HOSTILE: ["</script><script>", "<!--", "a\u2028b & c", float("nan")]}
    text = script_json(value)
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == to_plain(value)
    html = page(content(2, baseline=False))
    assert "<script>alert" not in html
    assert "default-src &#39;none&#39;" in html
    assert "unsafe-eval" not in html.partition("</head>")[0]
