"""What README and docs say is so."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from recap.config.keys import is_model
from recap.config.load import load_config
from recap.config.metrics import METRIC_NAMES
from recap.config.published.form import PublishedConfig
from recap.config.published.section import Refused
from recap.config.training import TrainingConfig

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md")]


def test_the_configuration_of_the_readme_is_good(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "ranker.yaml"
    file.write_text(text)
    assert load_config(file).tasks == ["is_favorited", "is_reported"]


@pytest.mark.parametrize("recipe", [*ROOT.glob("recipes/*/ranker.yaml")], ids=lambda path: path.parent.name)
def test_every_recipe_is_good(recipe: Path) -> None:
    assert load_config(recipe).tasks == list(yaml.safe_load(recipe.read_text())["model"]["tasks"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_file_tree_of_the_readme_is_that_of_the_disk() -> None:
    tree = (ROOT / "README.md").read_text().split("## The file tree")[1].split("```")[1]
    inside = {path.name for path in (ROOT / "src" / "recap").iterdir() if not path.name.startswith("__")}
    assert set(re.findall(r"^  ([\w.]+)", tree, re.MULTILINE)) == inside
    assert all((ROOT / name).exists() for name in re.findall(r"^([\w/]+)/ ", tree, re.MULTILINE))


def test_every_metric_and_every_training_field_is_explained() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    assert [name for name in METRIC_NAMES if f"`{name}`" not in metrics] == []
    training = (ROOT / "docs" / "training.md").read_text()
    assert [name for name in TrainingConfig.model_fields if name not in training] == []


def test_the_page_of_every_key_is_that_of_the_models() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.page(), "run make docs"


def test_the_plan_has_a_place_for_every_published_field_that_is_refused() -> None:
    plan = (ROOT / "docs" / "configuration-plan.md").read_text()
    fields = [item for model in sections(PublishedConfig) for item in model.model_fields.items()]
    names = [name for name, field in fields if any(isinstance(mark, Refused) for mark in field.metadata)]
    assert names
    assert [name for name in names if name not in plan and name != "axis"] == []


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A section and all below it."""
    below = [each for field in model.model_fields.values() for each in _models(field.annotation)]
    return {model}.union(*map(sections, below))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if is_model(annotation):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]
