"""README and docs agree with the code."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel

from recap.config.evaluation.metrics import METRIC_NAMES
from recap.config.file import reference
from recap.config.file.keys import is_model
from recap.config.file.load import load_config
from recap.config.training import TrainingConfig
from recap.published.form.config import PublishedConfig
from recap.published.form.section import Refused
from recap.serving.configuration import load_server_config

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md")]
TRAINING_PAGES = ("running", "optimizers", "precision", "checkpoints", "distributed", "tasks-and-losses")


def test_the_readme_configuration_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "ranker.yaml"
    file.write_text(text)
    assert load_config(file).tasks == ["is_favorited", "is_reported"]


@pytest.mark.parametrize("recipe", [*ROOT.glob("recipes/*/ranker.yaml")], ids=lambda path: path.parent.name)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_config(recipe).tasks == list(yaml.safe_load(recipe.read_text())["model"]["tasks"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [
        page.name for page in ROOT.glob("docs/*.md") if f"({page.name})" not in index and page.name != "index.md"
    ] == []


def test_the_readme_file_tree_matches_the_disk() -> None:
    tree = (ROOT / "README.md").read_text().split("## The file tree")[1].split("```")[1]
    inside = {path.name for path in (ROOT / "src" / "recap").iterdir() if not path.name.startswith("__")}
    assert set(re.findall(r"^  ([\w.]+)", tree, re.MULTILINE)) == inside
    assert all((ROOT / name).exists() for name in re.findall(r"^([\w/]+)/ ", tree, re.MULTILINE))


def test_every_metric_is_explained() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    assert [name for name in METRIC_NAMES if f"`{name}`" not in metrics] == []


def test_every_training_field_is_explained() -> None:
    pages = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in TRAINING_PAGES)
    assert [name for name in TrainingConfig.model_fields if name not in pages] == []


def test_the_configuration_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.page(), "run make docs"
    assert (ROOT / "docs" / "server-configuration.md").read_text() == reference.server_page(), "run make docs"


@pytest.mark.parametrize("page", ["serving", "monitoring"])
def test_every_configuration_of_a_server_is_valid(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        file = tmp_path / "serve.yaml"
        file.write_text(block)
        load_server_config(str(file), ["ranker=models"])


def test_every_refused_published_field_is_explained() -> None:
    page = (ROOT / "docs" / "published-form.md").read_text()
    fields = [item for model in sections(PublishedConfig) for item in model.model_fields.items()]
    names = [name for name, field in fields if any(isinstance(mark, Refused) for mark in field.metadata)]
    assert names
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_file_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    files = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(set(files)) > 20
    assert [file for file in files if not any((base / file).exists() for base in (ROOT / "src" / "recap", ROOT))] == []


@pytest.mark.slow
def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "make_logs.py").write_text(script)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120"}
    examples = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", section, re.MULTILINE)
    assert len([command for command, _ in examples if command.startswith("recap ")]) >= 5
    (request,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    (tmp_path / "request.json").write_text(request)
    rest, grpc = _free_port(), _free_port()
    with ExitStack() as stack:
        for command, shown in examples:
            if command.startswith("recap serve"):
                command += f" --port {rest} --grpc-port {grpc}"
                output = stack.enter_context(_served(command, tmp_path, environment))
                shown = shown.replace("; stop", f", gRPC on 127.0.0.1:{grpc}; stop")
            else:
                done = _run(command.replace(":8080/", f":{rest}/"), tmp_path, environment)
                output = done.stderr + done.stdout
            printed = [_without_numbers(line) for line in output.splitlines()]
            for line in shown.splitlines():
                assert line == "…" or _without_numbers(line) in printed, f"{command}: {line!r} is not among {printed}"
        for page in ("rest", "grpc"):
            (client,) = _python_blocks(page)
            (tmp_path / "client.py").write_text(client.replace("8080", str(rest)).replace("8081", str(grpc)))
            assert re.match(r"\[\d", _run("python client.py", tmp_path, environment).stdout)
    (script,) = [block for block in _python_blocks("export") if "candidates.csv" in block]
    (tmp_path / "scores.py").write_text(script + 'np.save("scores.npy", scores)\n')
    _run("python scores.py", tmp_path, environment)
    scored = pq.read_table(tmp_path / "scored" / "candidates.parquet")["score"].to_numpy()
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), scored, rtol=1e-3)


def _run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def _served(command: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """What a server prints until it listens; it is stopped at the end."""
    with subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("serving on"):
                break
        try:
            yield "".join(lines)
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)


def _without_numbers(line: str) -> str:
    """A line without what depends on the machine: numbers, widths of columns, the device."""
    return " ".join(re.sub(r"on (cpu|cuda).*", "on a device", re.sub(r"-?\d[\d,.:]*(e[+-]\d+)?", "#", line)).split())


@pytest.mark.slow
def test_the_python_examples_run_in_order(tmp_path: Path) -> None:
    code = "\n".join(_python_blocks("python"))
    simulate = ["-m", "recap", "data", "simulate", "--output", "data/simulated", "--rows", "20000"]
    simulate += ["--validation-rows", "5000"]
    subprocess.run([sys.executable, *simulate], cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(ROOT / "recipes" / "simulated" / "ranker.yaml", tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Did you mean 'num_train_steps'?" in done.stdout


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_can_be_searched(tmp_path: Path) -> None:
    options = ["--quiet", "--fail-on-warning", "--builder", "html", "--conf-dir", "docs", "--doctree-dir"]
    command = [sys.executable, "-m", "sphinx", *options, str(tmp_path / "trees"), ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "docs" / "index.html").exists()
    assert "docs/checkpoints" in (tmp_path / "site" / "searchindex.js").read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page, and explicit ones."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A section and all sections below it."""
    below = [section for field in model.model_fields.values() for section in _models(field.annotation)]
    return {model}.union(*map(sections, below))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if is_model(annotation):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]
