"""Settings of the run: experiments, test, monitoring, devices, and how it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from violence_detection.errors import UserError
from violence_detection.settings.constants import THRESHOLD_GOALS, XLA_ALL
from violence_detection.settings.setting import AT_LEAST_0, AT_LEAST_1, setting
from violence_detection.settings.values import (
    column_names,
    finite,
    is_understood_by,
    parse_threshold_goal,
)


@dataclass(frozen=True)
class ExperimentSettings:
    """What is done instead of training a detector."""

    TITLE: ClassVar[str] = "experiments, instead of a run"

    cross_validate: int | None = setting(
        None,
        "K-fold cross-validation: train on all folds but one, test on the held-out fold",
        "Folds are stratified and keep groups together; the held-out fold is used for no "
        "decision. Metrics, table and plot are written. With --tune or --grid: the number of "
        "folds by which each trial is scored (default there: 5).",
        check=(lambda value: value >= 2, "must be 2 or more"),
        one_worker_only=True,
        type=int,
        metavar="K",
    )
    find_lr: bool = setting(
        False,
        "raise the learning rate until training diverges; plot it and propose a rate",
        one_worker_only=True,
    )
    tune: int | None = setting(
        None,
        "search N times for better settings, without the test clips",
        "Searched are learning rate, widths, dropout, l2, gamma, smoothing and head. The best "
        "are written for --config. The same command resumes the search.",
        check=AT_LEAST_1,
        one_worker_only=True,
        type=int,
        metavar="N",
    )
    grid: Path | None = setting(
        None,
        "try every combination of the lists in a JSON file, without the test clips",
        'For example {"dropout": [0.2, 0.5], "head": ["mean", "attention-lstm"]}. The best are '
        "written for --config.",
        one_worker_only=True,
        type=Path,
        metavar="FILE",
    )

    preflight: bool = setting(
        False,
        "prove on 20 clips that a run with these flags works here, and say how long it will take",
        "Checks GPUs, CUDA's libraries, numerics, codecs and disks, and forecasts the run; exit "
        "status 1 if a check failed. Nothing of the dataset, the cache or the checkpoint directory "
        "is changed. Without --dataset-path, clips are drawn. See [preflight.md](preflight.md).",
        changes_on_resume=True,
        differs_by_host=True,
        one_worker_only=True,
    )

    @property
    def requested(self) -> bool:
        """Whether there is an experiment instead of a run."""
        return bool(self.cross_validate or self.find_lr or self.tune or self.grid)

    def require_valid(self) -> None:
        """Raise `UserError` if two of these settings contradict each other."""
        if sum(map(bool, (self.find_lr, self.tune, self.grid))) > 1:
            raise UserError("--find-lr, --tune and --grid are three experiments: give one of them")
        if self.find_lr and self.cross_validate:
            raise UserError("--find-lr and --cross-validate are two experiments: give one of them")


@dataclass(frozen=True)
class TestSettings:
    """How the trained model becomes a detector."""

    TITLE: ClassVar[str] = "test"

    threshold_for: str = setting(
        "accuracy",
        f"what the decision threshold is chosen for: {', '.join(THRESHOLD_GOALS)}",
        "It is chosen on the validation clips. `balanced`: the mean of both classes' accuracies; "
        "`recall=SHARE`: that share of the violent clips is found, with the fewest false alarms; "
        "`fpr=SHARE`: at most that share of the nonviolent clips is predicted violent. It can "
        "be changed after training: the same command then only repeats the test.",
        check=(
            is_understood_by(parse_threshold_goal),
            f"is none of {', '.join(THRESHOLD_GOALS)}, with a share from 0 to 1",
        ),
        changes_on_resume=True,
        type=str,
        metavar="GOAL",
    )
    subgroup: tuple[str, ...] = setting(
        (),
        "columns of groups.csv or of the manifest, such as camera,light: test figures by value",
        "Each value's clips are counted, and get figures with intervals in the results, the report "
        "and the model card. It can be changed after training: the same command then only repeats "
        "the test.",
        changes_on_resume=True,
        type=column_names,
        metavar="COLUMNS",
    )


@dataclass(frozen=True)
class MonitoringSettings:
    """What can be watched while it trains, and what it cost."""

    TITLE: ClassVar[str] = "monitoring"

    profile: bool = setting(
        False,
        "profile a few training steps for TensorBoard",
        changes_on_resume=True,
        differs_by_host=True,
    )
    quiet: bool = setting(
        False,
        "print plain lines instead of progress bars, as if not on a terminal",
        changes_on_resume=True,
        differs_by_host=True,
    )
    report: bool = setting(
        True,
        "write report.html and its plots at the end; report.py writes them later, too",
        changes_on_resume=True,
        differs_by_host=True,
    )
    electricity_price: float = setting(
        0.12,
        "price of a kWh, in your currency, for the cost of the GPUs' energy",
        check=AT_LEAST_0,
        changes_on_resume=True,
        differs_by_host=True,
        type=finite,
        metavar="PRICE",
    )
    cloud_price: float | None = setting(
        None,
        "hourly price of a comparable cloud machine, for comparison",
        check=AT_LEAST_0,
        changes_on_resume=True,
        differs_by_host=True,
        type=finite,
        metavar="PRICE",
    )
    mlflow: str | None = setting(
        None,
        "also log settings, metrics and report to this MLflow server or folder",
        changes_on_resume=True,
        differs_by_host=True,
        type=str,
        metavar="URI",
    )
    wandb: str | None = setting(
        None,
        "also log settings, metrics and report to this Weights & Biases project",
        changes_on_resume=True,
        differs_by_host=True,
        type=str,
        metavar="PROJECT",
    )


@dataclass(frozen=True)
class DeviceSettings:
    """What it computes on, and how."""

    TITLE: ClassVar[str] = "devices"

    replicas: int | None = setting(
        None,
        "GPUs of each host to use (default: all)",
        "Without a GPU: the number of logical devices that the CPU is split into (default: 1).",
        check=AT_LEAST_1,
        type=int,
        metavar="N",
    )
    cluster: str = setting(
        "tf-config",
        "where this process finds the other workers of the run: TF_CONFIG or Slurm",
        "`tf-config` reads TF_CONFIG from the environment, if it is set; `slurm` reads the job "
        "step. The command is the same on each host; batch sizes are those of all workers "
        "together.",
        changes_on_resume=True,
        differs_by_host=True,
        choices=("tf-config", "slurm"),
    )
    mixed_precision: bool = setting(
        True,
        "compute in float16 on a GPU, in bfloat16 on a CPU that has it, else in float32",
        "`float16` is used with loss scaling. Features in the cache are used whatever precision "
        "they were computed in.",
    )
    xla: bool | str = setting(
        False,
        "compile what is faster with XLA: on a GPU the forward and backward pass",
        "On a CPU only the standardization of the features is faster, and compiled without the "
        "flag, too; the line about XLA at the start says what is left out, and why. `--xla=all` "
        "compiles both passes on a CPU, too.",
        choices=(XLA_ALL,),
        metavar=XLA_ALL,
    )
    seed: int = setting(
        42,
        "seed of every random choice",
        check=(lambda value: 0 <= value < 2**32, "must be 0 or more and below 2^32"),
        type=int,
        metavar="N",
    )
    deterministic: bool = setting(False, "bit-for-bit repeatable runs, slower")


@dataclass(frozen=True)
class RunSettings:
    """How the command starts."""

    TITLE: ClassVar[str] = "run"

    config: Path | None = setting(
        None,
        "JSON file of settings by name, as --tune writes it; flags take precedence",
        changes_on_resume=True,
        differs_by_host=True,
        type=Path,
        metavar="FILE",
    )
    resume: bool = setting(
        True,
        "continue an interrupted run found in --checkpoint-dir; --no-resume is the same as --fresh",
        changes_on_resume=True,
    )
    debug: bool = setting(
        False, "show errors with their traceback", changes_on_resume=True, differs_by_host=True
    )
