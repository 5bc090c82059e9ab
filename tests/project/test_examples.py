"""What can be told of the examples without a scheduler: that their parts are known to it."""

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


def test_job_is_one_that_the_operator_takes(job: dict[str, Any]) -> None:
    jsonschema_rs.validate(TFJOB, job)


@pytest.mark.parametrize("field", ["restartPolicy", "name"])
def test_schema_refuses_what_the_operator_would(job: dict[str, Any], field: str) -> None:
    wrong = copy.deepcopy(job)
    workers = wrong["spec"]["tfReplicaSpecs"]["Worker"]
    where = workers if field == "restartPolicy" else workers["template"]["spec"]["containers"][0]
    where[field] = "Sometimes"
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(TFJOB, wrong)


def test_job_runs_a_command_that_exists_on_volumes_that_are_mounted(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = job["spec"]["tfReplicaSpecs"]["Worker"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    assert (ROOT / container["command"][1]).is_file()
    settings = make_parser().parse_args(container["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path in (settings.data.dataset_path, settings.data.cache_dir, settings.data.checkpoint_dir):
        assert any(path.is_relative_to(mount) for mount in mounts)
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert (
        settings.training.batch_size
        % (workers["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"])
        == 0
    )
    # As the operator makes it: a service a pod, the port of that name.
    (port,) = container["ports"]
    name = job["metadata"]["name"]
    addresses = [
        f"{name}-worker-{n}.default.svc:{port['containerPort']}" for n in range(workers["replicas"])
    ]
    task = {"type": "worker", "index": 1}
    config = {"cluster": {"worker": addresses}, "task": task, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert find_worker(settings.devices.cluster) == Worker(1, 2)


# Of sbatch's options (man sbatch), those that the example uses, and what their values look like.
SBATCH = {
    "job-name": r"[\w.-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"([\w.-]+:)?\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "signal": r"(B:|R:)?[A-Z0-9]+(@\d+)?",
    "output": r"\S+",
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


def test_batch_script_is_one_that_bash_and_sbatch_take() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    options = sbatch_options(SLURM)
    assert options.keys() == SBATCH.keys()
    for name, value in options.items():
        assert re.fullmatch(SBATCH[name], value), name
    lines = SLURM.read_text().splitlines()
    assert len(options) == sum(line.startswith("#SBATCH") for line in lines)  # none comes too late


def test_batch_script_starts_a_command_that_exists(tmp_path: Path) -> None:
    """With an srun that says what it was told to start."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = ["bash", str(SLURM), "--dataset-path", "/data/a folder"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    (script,) = [place for place, word in enumerate(words) if word.endswith(".py")]
    assert (ROOT / words[script]).is_file()
    settings = make_parser().parse_args(words[script + 1 :])
    assert settings.devices.cluster == "slurm"
    assert settings.data.dataset_path == Path("/data/a folder")
    assert "--ntasks-per-node=1" in words and "--kill-on-bad-exit=1" in words
