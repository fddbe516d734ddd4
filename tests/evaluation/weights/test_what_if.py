"""The weights what-if of a report, driven in a real browser."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from evaluation.report.contents import content
from evaluation.weights.lists import TASKS, WEIGHTS, sample_of

from recap.evaluation.report.page import page as html

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SAMPLE = sample_of()
OTHER = {"like": 2.5, TASKS[1]: 0.0, "report": -40.0, "watch_time": 1e-7}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A report with the lists of `SAMPLE`, and without charts, whose library takes seconds to load."""
    file = tmp_path_factory.mktemp("report") / "index.html"
    whole = replace(content(), what_if=SAMPLE.to_json(), training={}, curves={}, importance={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recap.evaluation.report.page._library", lambda: "")
        file.write_text(html(whole), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        messages: list[str] = []
        opened.on("console", lambda message: messages.append(message.text))
        opened.on("pageerror", lambda error: messages.append(str(error)))
        opened.goto(file.as_uri())
        yield opened
        browser.close()
    assert messages == []


def field(page: Any, task: str) -> Any:
    return page.get_by_label(f"weight of {task}", exact=True)


def numbers(page: Any) -> dict[str, list[float]]:
    """Task → expected engagements now and with the weights of the page, and observed ones; to the last digit."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    rows = page.locator("#wi-tasks tr").all()
    cells = [[float(cell.get_attribute("data-value")) for cell in row.locator("[data-value]").all()] for row in rows]
    return dict(zip(page.locator("#wi-tasks th").all_inner_texts(), cells, strict=True))


def weights_of(text: str) -> dict[str, float]:
    return {task: float(weight) for task, weight in yaml.safe_load(text)["scoring"]["weights"].items()}


def test_the_page_and_python_agree_to_the_last_digits(page: Any) -> None:
    for task, weight in OTHER.items():
        field(page, task).fill(str(weight))
    now, then = SAMPLE.order(WEIGHTS), SAMPLE.order(OTHER)
    expected = [SAMPLE.expected(now), SAMPLE.expected(then), SAMPLE.observed(then)]
    for task, values in numbers(page).items():
        assert values == pytest.approx([rates[task] for rates in expected], rel=1e-9)
    summary = page.locator("#wi-summary")
    assert float(summary.get_attribute("data-kendall")) == pytest.approx(SAMPLE.kendall(now, then))
    assert float(summary.get_attribute("data-overlap")) == pytest.approx(SAMPLE.overlap(now, then))
    assert weights_of(page.input_value("#wi-yaml")) == OTHER


def test_sliders_move_the_ranking_by_mouse_and_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Reset").click()
    before = numbers(page)
    assert all(now == then for now, then, _ in before.values())
    slider = page.get_by_label("report", exact=True)
    first = page.locator("#wi-rows").inner_text()
    slider.focus()
    for _ in range(25):
        page.keyboard.press("ArrowLeft")
    assert float(field(page, "report").input_value()) == 10 * WEIGHTS["report"]
    after = numbers(page)
    assert after["report"][1] < before["report"][1]
    assert after["like"][1] < before["like"][1]
    assert page.locator("#wi-rows").inner_text() != first
    assert slider.get_attribute("aria-valuetext") == "-150"
    slider.fill("0")
    numbers(page)
    assert weights_of(page.input_value("#wi-yaml"))["report"] == 0


def test_equalize_gives_each_task_the_same_share_and_yaml_has_the_weights(page: Any) -> None:
    page.get_by_role("button", name="Equalize").click()
    numbers(page)
    equal = SAMPLE.equalized()
    assert weights_of(page.input_value("#wi-yaml")) == equal
    assert {task: float(field(page, task).input_value()) for task in equal} == equal
    page.get_by_role("button", name="Copy as YAML").click()
    sync_api.expect(page.locator("#wi-copied")).not_to_be_empty()


def test_what_is_not_a_number_changes_nothing(page: Any) -> None:
    page.get_by_role("button", name="Reset").click()
    field(page, "like").fill("")
    assert field(page, "like").get_attribute("aria-invalid") == "true"
    numbers(page)
    assert weights_of(page.input_value("#wi-yaml")) == WEIGHTS


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
