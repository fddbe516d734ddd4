"""Every field is read outside the configuration: jobs are run, and their reads recorded."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pytest
from pydantic import BaseModel
from serving.certificates import Authority
from support import Recorder, write_feed, write_formats

from recap.backtest.run import backtest
from recap.config.base import BaseConfig
from recap.config.data import ServiceConfig
from recap.config.file.json_schema import models
from recap.config.file.load import Template, load_config
from recap.config.histories import target_of
from recap.config.recap import RecapConfig
from recap.data.open import open_sources
from recap.data.remote.access import Access
from recap.data.remote.server import DataServer
from recap.evaluation.report.build import report
from recap.evaluation.run import evaluate_run
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import Run, find_model_directory
from recap.training.sharded_tables.consolidate import consolidate
from recap.training.trainer import train
from recap.tuning.space import SearchSpace
from recap.tuning.study import open_study

VALID = Path(__file__).parent / "valid"
SECTIONS = models(RecapConfig)
"""tests/serving/test_configuration.py does the same for the configuration of a server."""
Field = tuple[str, str]
"""The class that declares a field, and its name."""


def declared(model: type[BaseModel], name: str) -> Field:
    return next(base.__name__ for base in model.__mro__ if name in vars(base).get("__annotations__", {})), name


def all_fields() -> set[Field]:
    """Every field except `kind`: builders match classes, and the type checker ensures that none is left out."""
    return {declared(model, name) for model in SECTIONS.values() for name in model.model_fields if name != "kind"}


def accessors() -> set[object]:
    """The code of every property and method of a section, and of `target_of`: it reads fields for its caller."""
    members = [member for model in SECTIONS.values() for base in model.__mro__ for member in vars(base).values()]
    functions = [target_of, *(member.fget if isinstance(member, property) else member for member in members)]
    return {function.__code__ for function in functions if isinstance(function, FunctionType)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Field]]:
    """The fields that code of recap outside recap.config has read."""
    fields: set[Field] = set()
    shared = accessors()

    def reader(frame: FrameType | None) -> str:
        while frame is not None and (
            frame.f_code in shared or frame.f_code is record.__code__ or frame.f_code.co_name[0] == "<"
        ):
            frame = frame.f_back
        return str(frame.f_globals["__name__"]) if frame is not None else ""

    def record(self: BaseConfig, name: str) -> Any:
        model = object.__getattribute__(self, "__class__")
        if name in model.__pydantic_fields__:
            module = reader(sys._getframe(1))
            if module.startswith("recap.") and not module.startswith("recap.config"):
                fields.add(declared(model, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(BaseConfig, "__getattribute__", record)
    yield fields
    monkeypatch.undo()


def access_for(readers: ServiceConfig) -> Access:
    """Writes the token, certificate and authority that a client's configuration names; access to its server."""
    assert readers.token_file is not None
    assert readers.server_ca is not None
    assert readers.certificate is not None
    assert readers.private_key is not None
    authority, token = Authority(Path("authorities")), Path(readers.token_file)
    server, client = authority.pair("server"), authority.pair("client")
    authority.certificate.rename(readers.server_ca)
    client.certificate.rename(readers.certificate)
    client.key.rename(readers.private_key)
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef")
    return Access(
        token_file=str(token),
        certificate=str(server.certificate),
        private_key=str(server.key),
        client_ca=readers.server_ca,
    )


def run_jobs(folder: Path) -> None:
    """Train, evaluate and predict with every valid file; report, tune and backtest some, in the folder of a feed."""
    for file in sorted(VALID.glob("*.yaml")):
        name = file.stem
        overrides = [f"training.save_dir={folder}/{name}", "training.num_train_steps=2"]
        config = load_config(file, overrides)
        if isinstance(config.train_data.readers, ServiceConfig):
            server = DataServer(open_sources(config), access_for(config.train_data.readers))
            config = load_config(file, [*overrides, f"train_data.readers.address=127.0.0.1:{server.port}"])
        if config.training.initial_checkpoint_dir is not None or file.stem == "teacher":
            train(load_config(VALID / "whole.yaml", ["training.save_dir=runs/before", *WARM]), Recorder())
        train(config, Recorder())
        trained = folder / name
        if config.training.sharded_tables is not None and not config.training.sharded_tables.consolidate:
            trained = folder / f"{name}-consolidated"
            consolidate(Run(folder / name).checkpoint_path(2), trained)
        if config.validation_data:
            evaluate_run(config, trained)
        predictor = Predictor.open(find_model_directory(trained))
        predict_files(predictor, ["validation/*.parquet"], folder / f"{name}-predictions", overwrite=False)
    report(folder / "metrics")
    for name in ("watch", "metrics"):
        config = load_config(file := VALID / f"{name}.yaml")
        assert config.tuning is not None
        with open_study(config, SearchSpace(Template.read(file), config.tuning), folder / f"{name}-tuning") as study:
            study.config_of(study.begin())
    section = "backtest={inputs: [train/*.parquet], window: file, mode: continue}"
    backtest(
        load_config(VALID / "whole.yaml", [section, "train_data.source.num_files_to_keep=null", *WARM]),
        folder / "backtest",
        Recorder(),
    )


WARM = ["training.initial_checkpoint_dir=null", "training.num_train_steps=1"]


def test_every_field_is_read_by_a_job(reads: set[Field], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_formats(write_feed(tmp_path / "feed", histories=True)))
    run_jobs(tmp_path)
    assert all_fields() - reads == set()


def test_reads_within_the_configuration_do_not_count(reads: set[Field]) -> None:
    config = load_config(VALID / "alone.yaml")
    assert config.training.seed == 0
    assert list(config.data_sets())
    assert reads == set()


def test_the_valid_files_use_every_field_and_every_kind() -> None:
    used: set[Field] = set()
    kinds: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, BaseConfig):
            used.update(declared(type(value), name) for name in value.model_fields_set)
            kinds.add(type(value).__name__)
            value = dict(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    for file in VALID.glob("*.yaml"):
        walk(load_config(file))
    assert all_fields() - used == set()
    assert SECTIONS.keys() - kinds == set()


def test_every_valid_file_loads() -> None:
    for file in VALID.glob("*.yaml"):
        assert load_config(file).tasks, file
