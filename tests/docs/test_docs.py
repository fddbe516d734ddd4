"""What README and docs say is so."""

import re
from pathlib import Path

import pytest
import yaml

from recap.config.load import load_config
from recap.config.metrics import METRIC_NAMES
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
