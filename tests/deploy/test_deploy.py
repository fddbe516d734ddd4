"""The files of deploy/ agree with each other, with the package and with the schemas of Kubernetes."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from recap.serving.configuration import load_server_config
from recap.serving.contract import RequestError
from recap.serving.security import Token

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
"""Fields of a predictor besides those of a pod."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def container_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification of the pod, and its container."""
    for document in documents(name):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
        elif document["kind"] == "InferenceService":
            pod = document["spec"]["predictor"]
        else:
            continue
        (container,) = pod["containers"]
        return pod, container
    raise AssertionError(name)


def test_the_manifests_are_valid_for_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    predictor, _ = container_of("kserve.yaml")
    pod = {key: value for key, value in predictor.items() if key not in OF_KSERVE}
    in_kserve = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ranker"}, "spec": pod}
    for document in [*documents("kubernetes.yaml"), in_kserve]:
        validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
def test_a_pod_starts_the_server_as_the_configuration_says(name: str) -> None:
    config = load_server_config(str(DEPLOY / "serve.yaml"), ["ranker=models"])
    pod, container = container_of(name)
    assert container["args"][0] == "serve"
    assert container["args"][2:] == ["--config", "/etc/recap/serve.yaml"]
    ports = {port["containerPort"] for port in container["ports"]}
    assert config.address.http_port in ports
    assert ports <= {config.address.http_port, config.address.grpc_port}
    assert pod["terminationGracePeriodSeconds"] >= config.grace_seconds + 10
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert str(Path(config.address.token_file or "").parent) in mounts
    # The token of a secret belongs to root and to this group.
    security = pod["securityContext"] | container["securityContext"]
    assert security["fsGroup"] == security["runAsUser"]
    assert f"USER {security['runAsUser']}" in DOCKERFILE.splitlines()
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/v2/health/ready"


def test_a_secret_is_read_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_28").mkdir()
    secret = tmp_path / "..2026_11_28" / "token"
    secret.write_text("c0ffee" * 10)
    secret.chmod(mode_of_the_secret("kubernetes.yaml"))
    (tmp_path / "..data").symlink_to("..2026_11_28")
    (tmp_path / "token").symlink_to("..data/token")
    token = Token.read(tmp_path / "token")
    token.check("Bearer " + "c0ffee" * 10)
    with pytest.raises(RequestError):
        token.check("Bearer " + "c0ffee" * 9)


def mode_of_the_secret(name: str) -> int:
    """The mode of the files of the secret that a pod mounts."""
    pod, _ = container_of(name)
    (mode,) = [volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume]
    assert isinstance(mode, int)
    return mode


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    ]
    assert all((ROOT / source).exists() for source in sources)
    assert set(sources) == allowed


def test_the_image_installs_the_extra_and_the_torch_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"EXTRAS=(\w+)", DOCKERFILE + (DEPLOY / "jobset.yaml").read_text())
    assert len(extras) == 3
    assert set(extras) <= project["optional-dependencies"].keys()
    (torch,) = re.findall(r"torch==\S+", DOCKERFILE)
    assert torch in (ROOT / "constraints.txt").read_text().split()
    (python,) = set(re.findall(r"^FROM python:(\S+)-slim", DOCKERFILE, re.MULTILINE))
    assert project["requires-python"] == f">={python}"
