"""One small model for all tests of this folder."""

from pathlib import Path

import pytest
from serving.running import small_model

from recap.inference.requests import RequestScorer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def scorer(model: Path) -> RequestScorer:
    return RequestScorer.open(model)
