"""Training on many machines: the JobSet, the Slurm script, and the commands of docs/scaling.md."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from support import feed_values, write_feed
from torch.distributed.run import get_args_parser
from typer.main import get_command
from typer.testing import CliRunner

from recap.cli.main import app
from recap.runs import Run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
JOB_SET, POLICY = yaml.safe_load_all((ROOT / "deploy" / "jobset.yaml").read_text())
(MACHINES,) = JOB_SET["spec"]["replicatedJobs"]
JOB = MACHINES["template"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]
SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
SCRIPTS = str(Path(sys.executable).parent)
"""Where torchrun is."""


# The manifest.


def test_the_job_set_is_valid() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "ranker-machines-0"}, "spec": JOB}
    for document in (job, POLICY):
        validate.validate(document, validate.latest_version(), strict=True)
    # Of JobSet's API, v1alpha2: no schema of it is installed.
    assert (JOB_SET["apiVersion"], JOB_SET["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert JOB_SET["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    assert MACHINES.keys() == {"name", "replicas", "template"}
    failures = JOB_SET["spec"]["failurePolicy"]
    assert failures.keys() == {"maxRestarts", "rules"}
    assert [rule.keys() for rule in failures["rules"]] == [{"name", "action", "onJobFailureReasons"}]
    # A restart of JobSet replaces a pod, so neither the pod nor its Job may start again by itself.
    assert (POD["restartPolicy"], JOB["backoffLimit"]) == ("Never", 0)


def test_the_pods_find_each_other_and_only_each_other() -> None:
    options = parsed_torchrun(command_of_the_pod())
    name = JOB_SET["metadata"]["name"]
    assert options.rdzv_endpoint.partition(":")[0] == f"{name}-{MACHINES['name']}-0-0.{name}"
    assert int(options.nnodes) == JOB["completions"] == JOB["parallelism"]
    assert options.nproc_per_node == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    labels = JOB["template"]["metadata"]["labels"]
    assert POLICY["spec"]["podSelector"]["matchLabels"] == labels
    assert POLICY["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]


def test_each_limit_leaves_time_for_the_one_inside_it() -> None:
    environment = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    of_torchrun = int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert POD["terminationGracePeriodSeconds"] > of_torchrun > grace(" ".join(CONTAINER["args"]))
    script = SCRIPT.read_text()
    (of_slurm,) = re.findall(r"--signal=B:USR1@(\d+)", script)
    (of_torchrun,) = map(int, re.findall(r"SHUTDOWN_TIMEOUT=(\d+)", script))
    assert int(of_slurm) > of_torchrun > grace(script)


def grace(text: str) -> int:
    (seconds,) = re.findall(r"training\.preemption_grace_seconds=(\d+)", text)
    return int(seconds)


def test_the_user_of_the_pod_is_that_of_the_image() -> None:
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}" in (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    mounts = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in POD["volumes"]}


def command_of_the_pod() -> str:
    shell, flag, command, _ = CONTAINER["command"]
    assert (shell, flag) == ("sh", "-c")
    assert isinstance(command, str)
    return command


@pytest.mark.slow
def test_two_pods_train_together_whichever_starts_first(tmp_path: Path) -> None:
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    values["training"]["num_train_steps"] = 2
    (tmp_path / "ranker.yaml").write_text(yaml.safe_dump(values))
    command = command_of_the_pod()
    for found, replaced in (
        (r"--nnodes=\d+", "--nnodes=2"),
        (r"--nproc-per-node=\d+", "--nproc-per-node=1"),
        (r"ranker-machines-0-0\.ranker:\d+", f"127.0.0.1:{free_port()}"),
    ):
        command, count = re.subn(found, replaced, command)
        assert count == 1
    arguments = [
        *map(str, CONTAINER["command"][:2]),
        command,
        "sh",
        str(tmp_path / "ranker.yaml"),
        CONTAINER["args"][2],
    ]
    environment = os.environ | {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    environment |= {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    pods = []
    for index in ("1", "0"):
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        pods.append(subprocess.Popen(arguments, env=environment | {"JOB_COMPLETION_INDEX": index}, **pipes))
        time.sleep(0.5)
    outputs = [pod.communicate(timeout=200)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], outputs
    assert list(Run(tmp_path / "run").checkpoints) == [2]
    assert sum(output.count("next: recap ") for output in outputs) == 1  # of rank 0


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


# The script of Slurm.


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder of stand-ins for the commands of Slurm; srun runs its command once, as machine 0, and notes its id."""
    programs = {
        "srun": 'shift; SLURM_NODEID=0 "$@" & echo $! > step; wait $!',
        "scancel": 'echo "scancel $*" >> calls; kill -TERM "$(cat step)"',
        "scontrol": 'if [ "$1" = show ]; then printf "gpu-1\\ngpu-2\\n"; else echo "scontrol $*" >> calls; fi',
        "torchrun": 'echo "$*" > torchrun.txt; trap "exit 1" TERM; while [ ! -e end ]; do sleep 0.05; done',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def started_script(slurm: Path) -> "subprocess.Popen[bytes]":
    """The script, when its torchrun is running."""
    variables = {"JOB_ID": "123456", "JOB_NODELIST": "gpu-[1-2]", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "4"}
    environment = {f"SLURM_{name}": value for name, value in variables.items()}
    environment |= {"PATH": f"{slurm}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "32"}
    process = subprocess.Popen(["bash", SCRIPT, "a b.yaml"], cwd=slurm, env=environment)
    while not (slurm / "torchrun.txt").exists() or not (slurm / "torchrun.txt").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_the_script_queues_a_job_again_that_its_time_limit_stopped(slurm: Path) -> None:
    process = started_script(slurm)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 1
    calls = (slurm / "calls").read_text().splitlines()
    assert calls == ["scancel --signal=TERM 123456", "scontrol requeue 123456"]
    words = (slurm / "torchrun.txt").read_text()
    options = parsed_torchrun(f"torchrun {words}")
    assert (options.nnodes, options.nproc_per_node, options.rdzv_endpoint) == ("2", "4", "gpu-1:23456")
    assert "is_host=1," in options.rdzv_conf
    assert " -m recap train a b.yaml training.preemption_grace_seconds=" in words


def test_the_script_queues_no_job_again_that_has_finished(slurm: Path) -> None:
    process = started_script(slurm)
    (slurm / "end").touch()
    assert process.wait(30) == 0
    assert not (slurm / "calls").exists()


# The page.


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def parsed_torchrun(command: str) -> Any:
    """The options of torchrun, which exits if it does not know one."""
    return get_args_parser().parse_args(shlex.split(command[command.index("torchrun ") :])[1:])


def check_recap(words: list[str]) -> None:
    """Raise click's error if recap has no such command, or the command no such option."""
    command: click.Command = get_command(app)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    command.make_parser(click.Context(command)).parse_args(words)


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_exists(command: str) -> None:
    words = shlex.split(command)
    if "=" in words[0] or words[0] in ("export", "source", "pip"):
        return
    if words[0] == "torchrun":
        options = parsed_torchrun(command)
        assert (options.module, options.training_script) == (True, "recap")
        check_recap(options.training_script_args)
    elif words[0] == "recap":
        check_recap(words[1:])
    else:
        assert words[0] in ("sbatch", "kubectl", "python")
        files = [word for word in words if word.startswith(("deploy/", "recipes/"))]
        assert files or "configmap" in words
        assert all((ROOT / file).exists() for file in files)
        if words[0] == "python":
            script = (ROOT / files[0]).read_text()
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in script] == []


def test_the_plan_of_the_page_is_what_recap_plan_prints(tmp_path: Path) -> None:
    section = PAGE.split("## Example")[1]
    (config,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^recap plan .*", section, re.MULTILINE)
    file = tmp_path / "ranker.yaml"
    file.write_text(config)
    arguments = [str(file) if word == "ranker.yaml" else word for word in shlex.split(command)[1:]]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    assert [line for line in shown.splitlines() if line not in printed] == [], done.stdout
