"""The JSON Schema accepts and refuses the same files as the loader, as far as it can."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from config.corpus import VALID, mutations
from jsonschema import Draft202012Validator

from recap.config.evaluation.metrics import LOWER_IS_BETTER, WATCHABLE
from recap.config.file.json_schema import DIALECT, field_text, models, schema, schema_text, server_definitions
from recap.config.training import WatchConfig

ROOT = Path(__file__).parents[2]
RECIPES = [*ROOT.glob("recipes/*/ranker.yaml")]
SHIPPED = ROOT / "src" / "recap" / "config" / "file" / "recap.schema.json"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def test_it_is_a_schema_of_draft_2020_12(validator: Draft202012Validator) -> None:
    validator.check_schema(validator.schema)
    assert schema()["$schema"] == DIALECT


def test_the_shipped_schema_is_up_to_date() -> None:
    assert SHIPPED.read_text() == schema_text(), "run make docs"


@pytest.mark.parametrize("file", [*VALID, *RECIPES], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_valid_file_and_every_recipe_validates(file: Path, validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_names_the_schema_in_its_first_line(recipe: Path) -> None:
    named = recipe.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (recipe.parent / named).resolve() == SHIPPED


def test_it_refuses_single_fields_that_the_loader_refuses(validator: Draft202012Validator) -> None:
    # JSON Schema has no non-finite numbers, and does not know what a validation split inherits.
    inherited = ("missing ArrowConfig.", "missing JsonLinesConfig.", "missing DailyInputs.", "missing HourlyInputs.")
    broken = {name: text for name, text in mutations() if not name.startswith(("not a number", *inherited))}
    accepted = [name for name, text in broken.items() if validator.is_valid(yaml.safe_load(text))]
    assert accepted == []


def test_every_field_and_every_section_is_described() -> None:
    definitions = server_definitions() | schema()["$defs"]
    for name in models():
        definition = definitions.get(name) or definitions[f"{name}Part"]
        assert definition["description"], name
        assert [field for field, schema in definition["properties"].items() if not schema.get("description")] == [], (
            name
        )


@pytest.mark.parametrize(
    "values",
    [
        {"base": "ranker.yaml"},
        {"base": "ranker.yaml", "training": {"seed": "${SEED}"}, "model": {"tasks": {}}},
        {"base": "ranker.yaml", "optimizer": {"towers": {"like": {"learning_rate": 0.1}}}},
        {"base": "ranker.yaml", "which_metrics": ["${METRIC}"]},
    ],
)
def test_a_file_with_a_base_may_be_partial(values: Any, validator: Draft202012Validator) -> None:
    assert validator.is_valid(values)


@pytest.mark.parametrize(
    "values",
    [
        {"training": {}},
        {"base": "ranker.yaml", "training": {"sed": 1}},
        {"base": "ranker.yaml", "features": {"continuous": [{"length": 2}]}},
        {"base": 3},
    ],
)
def test_other_partial_files_are_refused(values: Any, validator: Draft202012Validator) -> None:
    assert not validator.is_valid(values)


def test_it_is_written_as_readable_json() -> None:
    assert json.loads(schema_text()) == schema()
    assert "≥" in schema_text() or "…" in schema_text() or "sign(x)" in schema_text()


def test_the_help_of_the_watched_metric_lists_those_that_are_better_when_lower() -> None:
    lower, _, _ = field_text(WatchConfig, "metric").partition(" are better when lower")
    assert set(re.findall(r"[a-z_]+", lower)) & set(WATCHABLE) == LOWER_IS_BETTER & set(WATCHABLE)
