"""The examples without a scheduler: their options are valid, and their commands exist."""

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.conftest import ROOT
from violence_detection.runtime.worker import Worker, find_worker
from violence_detection.settings.parser import make_parser

KUBERNETES = ROOT / "examples" / "kubernetes.yaml"
EXTRACT = ROOT / "examples" / "extract.sbatch"
SLURM = ROOT / "examples" / "slurm.sbatch"


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER, NAME = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
)
TEXTS = {"type": "array", "items": TEXT}
CONTAINER = closed(
    {
        "name": TEXT,
        "image": {"type": "string", "minLength": 1},
        "workingDir": TEXT,
        "command": TEXTS,
        "args": TEXTS,
        "env": {"type": "array"},
        "ports": {
            "type": "array",
            "items": closed(
                {"name": {**TEXT, "pattern": NAME, "maxLength": 15}, "containerPort": NUMBER},
                "containerPort",
            ),
        },
        "resources": closed({"limits": {"type": "object"}, "requests": {"type": "object"}}),
        "volumeMounts": {
            "type": "array",
            "items": closed(
                {"name": TEXT, "mountPath": TEXT, "readOnly": {"type": "boolean"}},
                *("name", "mountPath"),
            ),
        },
    },
    *("name", "image"),
)
POD = closed(
    {
        "containers": {
            "type": "array",
            "items": CONTAINER,
            "minItems": 1,
            "contains": {"properties": {"name": {"const": "tensorflow"}}},
        },
        "volumes": {
            "type": "array",
            "items": closed(
                {
                    "name": TEXT,
                    "persistentVolumeClaim": closed(
                        {"claimName": TEXT, "readOnly": {"type": "boolean"}}, "claimName"
                    ),
                    "emptyDir": closed({"medium": {"enum": ["", "Memory"]}, "sizeLimit": TEXT}),
                },
                "name",
            ),
        },
    },
    "containers",
)
REPLICAS = closed(
    {
        "replicas": NUMBER,
        "restartPolicy": {"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
        "template": closed({"metadata": {"type": "object"}, "spec": POD}, "spec"),
    },
    "template",
)
# The fields of TFJobSpec, RunPolicy and ReplicaSpec, and what ValidateV1TFJob asks for, in
# kubeflow/training-operator, pkg/apis/kubeflow.org/v1 (tensorflow_types.go, common_types.go,
# tensorflow_validation.go); of a pod, the fields of Kubernetes' core/v1 that are used here.
TFJOB = closed(
    {
        "apiVersion": {"const": "kubeflow.org/v1"},
        "kind": {"const": "TFJob"},
        "metadata": closed({"name": {**TEXT, "pattern": NAME, "maxLength": 63}}, "name"),
        "spec": closed(
            {
                "runPolicy": closed(
                    {
                        "cleanPodPolicy": {"enum": ["", "All", "Running", "None"]},
                        "ttlSecondsAfterFinished": NUMBER,
                        "activeDeadlineSeconds": NUMBER,
                        "backoffLimit": NUMBER,
                        "schedulingPolicy": {"type": "object"},
                    }
                ),
                "successPolicy": {"enum": ["", "AllWorkers"]},
                "tfReplicaSpecs": {
                    "type": "object",
                    "propertyNames": {"enum": ["PS", "Worker", "Chief", "Master", "Evaluator"]},
                    "additionalProperties": REPLICAS,
                    "minProperties": 1,
                },
                "enableDynamicWorker": {"type": "boolean"},
            },
            "tfReplicaSpecs",
        ),
    },
    *("apiVersion", "kind", "metadata", "spec"),
)


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load(KUBERNETES.read_text())


def test_job_is_valid_for_the_operator(job: dict[str, Any]) -> None:
    jsonschema_rs.validate(TFJOB, job)


@pytest.mark.parametrize("field", ["restartPolicy", "name"])
def test_schema_rejects_what_the_operator_would(job: dict[str, Any], field: str) -> None:
    wrong = copy.deepcopy(job)
    workers = wrong["spec"]["tfReplicaSpecs"]["Worker"]
    where = workers if field == "restartPolicy" else workers["template"]["spec"]["containers"][0]
    where[field] = "Sometimes"
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(TFJOB, wrong)


def test_job_runs_an_existing_command_on_mounted_volumes(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = job["spec"]["tfReplicaSpecs"]["Worker"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    assert (ROOT / container["command"][1]).is_file()
    settings = make_parser().parse_args(container["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path in (settings.dataset_path, settings.cache_dir, settings.checkpoint_dir):
        assert any(path.is_relative_to(mount) for mount in mounts)
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert (
        settings.batch_size
        % (workers["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"])
        == 0
    )
    # As the operator does: a service per pod, with the port of that name.
    (port,) = container["ports"]
    name = job["metadata"]["name"]
    addresses = [
        f"{name}-worker-{n}.default.svc:{port['containerPort']}" for n in range(workers["replicas"])
    ]
    task = {"type": "worker", "index": 1}
    config = {"cluster": {"worker": addresses}, "task": task, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert find_worker(settings.cluster) == Worker(1, 2)


# The options of sbatch (man sbatch) that the examples use, and the form of their values.
SBATCH = {
    "array": r"\d+-\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"([\w.-]+:)?\d+",
    "gpus-per-task": r"([\w.-]+:)?\d+",
    "job-name": r"[\w.-]+",
    "mem": r"\d+[KMGT]?",
    "nodes": r"\d+(-\d+)?",
    "ntasks": r"\d+",
    "ntasks-per-node": r"\d+",
    "output": r"\S+",
    "signal": r"(B:|R:)?[A-Z0-9]+(@\d+)?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
}


def sbatch_options(path: Path) -> dict[str, str]:
    """Return the options that sbatch reads: up to the first line that is a command."""
    options = {}
    for line in path.read_text().splitlines():
        if line.startswith("#SBATCH"):
            for word in shlex.split(line.removeprefix("#SBATCH")):
                name, equals, value = word.removeprefix("--").partition("=")
                assert word.startswith("--") and equals and name not in options, word
                options[name] = value
        elif line.strip() and not line.startswith("#"):
            break
    return options


@pytest.mark.parametrize("script", [SLURM, EXTRACT], ids=lambda path: path.stem)
def test_batch_script_is_valid_for_bash_and_sbatch(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = sbatch_options(script)
    for name, value in options.items():
        assert re.fullmatch(SBATCH[name], value), name
    lines = script.read_text().splitlines()
    # None comes after a command, where sbatch would not read it.
    assert len(options) == sum(line.startswith("#SBATCH") for line in lines)


def printed_by(script: Path, program: Path, *arguments: str) -> list[str]:
    """Return the arguments with which a batch script runs a program, which only prints them."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = ["bash", str(script), *arguments]
    done = subprocess.run(
        command,
        cwd=program.parent.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_training_script_starts_an_existing_command(tmp_path: Path) -> None:
    srun = tmp_path / "local" / "bin" / "srun"
    words = printed_by(SLURM, srun, "--dataset-path", "/data/a folder")
    (script,) = [index for index, word in enumerate(words) if word.endswith(".py")]
    assert (ROOT / words[script]).is_file()
    settings = make_parser().parse_args(words[script + 1 :])
    assert settings.cluster == "slurm"
    assert settings.dataset_path == Path("/data/a folder")
    assert "--ntasks-per-node=1" in words and "--kill-on-bad-exit=1" in words


def test_extraction_script_has_a_task_for_each_share(tmp_path: Path) -> None:
    python = tmp_path / ".venv-gpu" / "bin" / "python"
    script, *words = printed_by(EXTRACT, python, "/data/a folder", "/shared/cache")
    assert (ROOT / script).is_file()
    settings = make_parser().parse_args(words)
    assert settings.extract_only
    assert (settings.dataset_path, settings.cache_dir) == (
        Path("/data/a folder"),
        Path("/shared/cache"),
    )
    first, last = map(int, sbatch_options(EXTRACT)["array"].split("-"))
    assert first == 1 and words[words.index("--share") + 1] == f"/{last}"
