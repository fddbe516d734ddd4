"""The page at `/`, driven in a browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from serving.running import running, small_model
from support import feed_table

import recap
from recap.serving.server import Addresses

pytestmark = pytest.mark.slow
COLUMNS = ["age", "followers", "in_network", "hour", "language", "vector"]
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def addresses(model: Path, token: Path) -> Iterator[Addresses]:
    with running(model, page=True, address={"token_file": str(token)}) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(params=["wide, light", "phone, dark"])
def page(request: pytest.FixtureRequest, browser: Browser, addresses: Addresses) -> Iterator[Page]:
    """Connected; fails if a script fails, or if anything is asked of another server."""
    phone = "phone" in request.param
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    context = browser.new_context(viewport=size, color_scheme="dark" if phone else "light")  # type: ignore[arg-type]
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda asked: None if asked.url.startswith(addresses.http) else wrong.append(asked.url))
    page.goto(addresses.http)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Connect").click()
    page.get_by_text("predicts like, share").wait_for()
    yield page
    assert not wrong
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def score(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.get_by_role("button", name="Score").click()
    page.locator("#score:enabled").wait_for()


def table(page: Page) -> tuple[list[int], list[float]]:
    """The candidates and scores of the page, in its order."""
    lines = page.locator("#rows tr")
    order = lines.evaluate_all("lines => lines.map(line => Number(line.dataset.candidate))")
    scores = page.locator("#rows [data-score]").evaluate_all("cells => cells.map(cell => Number(cell.dataset.score))")
    return order, scores


def test_the_order_follows_the_weights_by_the_formula(page: Page, model: Path) -> None:
    rows = feed_table(40).select([*COLUMNS, "post_id"])
    score(page, json.dumps([row | {"title": "<img src=x onerror=alert(1)>"} for row in rows.to_pylist()]))
    for weights in ({"like": 1.0, "share": 5.0}, {"like": -3.0, "share": 5.0}, {"like": 0.0, "share": 0.0}):
        for task, weight in weights.items():
            page.get_by_label(f"weight of {task}").fill(str(weight))
        scorer = recap.Scorer.open(model, overrides=[f"scoring.weights={json.dumps(weights)}"])
        expected = scorer(rows.select(COLUMNS))["score"].to_numpy()
        order, scores = table(page)
        assert order == np.argsort(-expected, kind="stable").tolist()
        assert np.allclose(scores, expected[order], rtol=1e-12, atol=0)
    assert page.locator("#rows img").count() == 0
    assert page.locator("#rows").get_by_text("<img src=x onerror=alert(1)>").first.is_visible()
    page.get_by_role("button", name="Reset").click()
    assert page.get_by_label("weight of share").input_value() == "5"
    slider = page.locator("#weight-1")
    slider.focus()
    slider.press("Home")
    assert page.get_by_label("weight of share").input_value() == "-500"
    assert "share: -500" in page.locator("#yaml").input_value()


def test_csv_files_are_read_and_columns_of_nobody_are_not_sent(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "candidates.csv"
    lines = ['1.5,,true,3,"en","[1, 2, 3, 4]","a ""quoted"", text"', ",2,false,4,ja,,", "1,2,0,5,,[],x"]
    file.write_text("\n".join([",".join([*COLUMNS, "title"]), *lines[:2], ""]))
    page.locator("#file").set_input_files(file)
    page.locator("#text").evaluate("async field => { while (!field.value) await new Promise(requestAnimationFrame); }")
    page.get_by_role("button", name="Score").click()
    page.get_by_text('a "quoted", text').wait_for()
    assert sorted(table(page)[0]) == [0, 1]
    score(page, "\n".join([",".join([*COLUMNS, "title"]), *lines]))
    assert "holds a list of length 0, expected 4" in page.get_by_role("alert").inner_text()


def test_a_new_page_shows_weights_columns_and_an_example_that_can_be_scored(page: Page, tmp_path: Path) -> None:
    assert page.get_by_label("weight of share").input_value() == "5"
    assert page.locator("#columns").get_by_text("followers").is_visible()
    page.get_by_text("Score the candidates to see their order.").wait_for()
    page.get_by_label("weight of like").fill("2")
    page.get_by_role("button", name="Score").click()
    page.locator("#rows tr").first.wait_for()
    assert sorted(table(page)[0]) == [0, 1]
    assert page.get_by_label("weight of like").input_value() == "2"


def test_mistakes_are_told(page: Page) -> None:
    for text, message in (
        ("{", "not JSON"),
        ("[]", "expected a list of candidates"),
        ('[{"age": 1}]', "column 'followers': is missing"),
        ("age,hour\n1", "CSV line 2: found 1 cells, expected 2"),
        ("age\nx", "CSV line 2, age: found x, expected a number"),
    ):
        score(page, text)
        assert message in page.get_by_role("alert").inner_text()


def test_the_page_allows_only_its_own_script(addresses: Addresses, page: Page) -> None:
    response: Any = page.request.get(addresses.http)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    score(page, json.dumps({"user": {}, "candidates": [dict.fromkeys(COLUMNS)]}))
    assert table(page)[0] == [0]
