"""Train a violence detector on a folder of labelled clips: the whole job, from top to bottom.

    python train_rtx5000_dual_optimized.py --dataset-path DIR
    python train_rtx5000_dual_optimized.py --demo

clips -> 16 frames each -> VGG19 features, cached -> batches -> attention-LSTM -> test.
"""

# Processes that decode clips import this module again: what is slow is imported in functions.
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from violence_detection.runtime.interrupts import leave, run_or_explain
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings

if TYPE_CHECKING:
    from violence_detection.clips.loading import Dataset
    from violence_detection.features.checked_clips import CheckedClips
    from violence_detection.features.prepare import Features
    from violence_detection.reporting.trackers import Trackers
    from violence_detection.runs.opening import OpenedRun
    from violence_detection.runs.results import Tested
    from violence_detection.runs.usage import Usage
    from violence_detection.runtime.machine import Machine
    from violence_detection.training.pseudo_labels import PseudoLabels
    from violence_detection.training.splits import Splits
    from violence_detection.training.testing import CalibratedModel, Trained

log = logging.getLogger("violence_detection.train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    debug = "--debug" in (sys.argv if arguments is None else arguments)

    def job() -> int:
        settings = parse_settings(arguments)
        if settings.data.extract_only or settings.experiment.preflight:
            return work_without_training(settings)
        with ExitStack() as stack:  # folders that no other run may write meanwhile
            return train(settings, stack)

    return run_or_explain(job, debug, resumable=True)


def work_without_training(settings: Settings) -> int:
    """Compute a share of the clips' features, or prove that a run would work; and end."""
    from violence_detection.runtime.tensorflow_log import loading_tensorflow

    with loading_tensorflow(quiet=settings.monitoring.quiet):
        if settings.experiment.preflight:
            from violence_detection.experiments.preflight.run import run_preflight as work
        else:
            from violence_detection.features.extract_only import extract_only as work
    return work(settings)


def train(settings: Settings, stack: ExitStack) -> int:
    """Find out what there is to do, then do it; what is opened is closed with `stack`."""
    started = time.perf_counter()
    from violence_detection.clips.loading import find_dataset
    from violence_detection.models.vgg19_weights import check_all_weights
    from violence_detection.reporting.trackers import require_trackers
    from violence_detection.runs.opening import open_run
    from violence_detection.runtime.stage_clock import StageClock
    from violence_detection.runtime.tensorflow_log import loading_tensorflow
    from violence_detection.runtime.worker import find_worker, require_supported

    clock = StageClock()
    worker = find_worker(settings.devices.cluster)  # this process alone, or one of several
    require_supported(settings, worker)
    if worker.is_chief:
        require_trackers(settings.monitoring.mlflow, settings.monitoring.wandb)
    check_all_weights(settings)
    run = open_run(settings, find_dataset(settings, stack), worker, stack)
    if run.finished:
        return report_again(settings, run, stack)

    # TensorFlow takes seconds to load: only now, when the rest is known to be right. Which of
    # several workers is lost is logged by name; TensorFlow's own errors would repeat it.
    quiet, several = settings.monitoring.quiet, worker.count > 1
    with loading_tensorflow(messages=run.log_file, quiet=quiet, errors_too=several):
        from violence_detection.runtime.machine import set_up_machine
    machine = set_up_machine(
        *(settings, worker, run.log_file, stack),
        batch_size=settings.training.batch_size,
        started=started,
        clock=clock,
    )
    return train_detector(settings, run.dataset, run, machine, stack)


def report_again(settings: Settings, run: "OpenedRun", stack: ExitStack) -> int:
    """Point to the results of a finished run, after showing them where they are not shown yet."""
    from violence_detection.reporting.trackers import trackers_of
    from violence_detection.runs.files import HPARAMS, MODEL_CARD, REPORT, RESULTS, TENSORBOARD
    from violence_detection.runtime.tensorflow_log import loading_tensorflow

    directory, monitoring = run.directory, settings.monitoring
    trackers = stack.enter_context(trackers_of(monitoring, directory))
    shown = [directory / TENSORBOARD / HPARAMS, directory / MODEL_CARD]
    shown += [directory / REPORT] * monitoring.report
    is_shown = all(path.exists() for path in shown) and trackers.are_complete()
    if directory.writes and not is_shown:
        with loading_tensorflow(messages=run.log_file, quiet=monitoring.quiet):
            from violence_detection.reporting import final_figures  # noqa: F401
        if trackers.trackers:
            directory.read_history()
            trackers.start(settings.as_json())
        publish(settings, run, trackers)
    log.info(
        "This run is finished; its results are in %s.\n"
        "To train again: --fresh, or another --checkpoint-dir",
        directory / RESULTS,
    )
    return 0


def train_detector(
    settings: Settings, dataset: "Dataset", run: "OpenedRun", machine: "Machine", stack: ExitStack
) -> int:
    """Prepare features, check clips, train, calibrate, test and report."""
    from violence_detection.features.checked_clips import check_clips
    from violence_detection.features.grouping import group_clips
    from violence_detection.features.prepare import prepare_features
    from violence_detection.reporting.trackers import trackers_of
    from violence_detection.runs.agreement import require_same_on_all_workers
    from violence_detection.runtime.progress import running_clock
    from violence_detection.runtime.stage_clock import TEST
    from violence_detection.runtime.xla import log_xla
    from violence_detection.training.splits import load_splits
    from violence_detection.training.testing import calibrate_detector, test_detector

    log_xla(settings.devices.xla, machine.devices[0].device_type)
    if settings.experiment.requested:  # cross-validation, range test, search, grid
        from violence_detection.experiments.run import check_experiment, run_experiment

        check_experiment(settings, dataset.clips)
    require_same_on_all_workers(machine, settings, dataset, run.continuing, Path(__file__))

    # VGG19 up to a layer, computed once per clip and kept; then what is wrong with the clips.
    features = prepare_features(settings, dataset, machine, run.bad_clips)
    dataset, features = group_clips(dataset, features, settings, machine, run.groups_csv)
    checked = check_clips(dataset, features, settings.data, run.leakage_csv)
    splits = load_splits(checked, features, settings)
    if settings.experiment.requested:
        run_experiment(settings, splits, checked.usable, machine, run.directory.folder)
        return 0

    # Each classifier is trained from its last finished epoch on.
    trackers = stack.enter_context(trackers_of(settings.monitoring, run.directory))
    trained = train_classifiers(settings, dataset, checked, splits, run, machine, trackers, stack)
    if not machine.worker.is_chief:
        return 0  # once the chief, which tests alone, has ended

    # Temperature and threshold come from validation clips, figures from clips never seen.
    machine.clock.begin(TEST)
    with running_clock("testing", settings.monitoring.quiet):
        detector = calibrate_detector(trained.members, settings)
        tested = test_detector(detector, trained, checked, run.directory, settings)
    used = write_outcome(settings, features, checked, trained, run, machine, detector, tested)
    publish(settings, run, trackers)
    print_summary(settings, run, tested, used)
    return 0


def train_classifiers(
    settings: Settings,
    dataset: "Dataset",
    checked: "CheckedClips",
    splits: "Splits",
    run: "OpenedRun",
    machine: "Machine",
    trackers: "Trackers",
    stack: ExitStack,
) -> "Trained":
    """Train the classifier or the ensemble, on clips without labels first if there are any."""
    from violence_detection.features.leakage import write_leaks
    from violence_detection.reporting.watching import TrainingWatch
    from violence_detection.runs.files import LEAKAGE
    from violence_detection.training.member import Training, members_of, new_trainer, train_members
    from violence_detection.training.testing import Trained
    from violence_detection.training.unlabeled import learn_without_labels

    inputs = splits.fingerprints | {"the precision": machine.precision.policy}
    watch = partial(TrainingWatch, settings=settings, trackers=trackers, run=run.directory)
    training = Training(settings, splits, machine, run.directory, watch, inputs)
    members = members_of(training)  # one, or one for each fold of the clips
    trainer = new_trainer(members[0])

    # Nothing of an earlier run is touched before here.
    with machine.cluster.chief_first("the checkpoint directory"):
        bad_clips = {clip.name: reason for clip, reason in checked.bad.items()}
        computation = machine.precision.computation
        run.begin(settings, dataset, bad_clips, machine.descriptions, computation)
        if run.directory.writes:
            write_leaks(checked.leaks, run.directory / LEAKAGE)
    machine.cluster.require_same(inputs)
    rounds: list[PseudoLabels] = []
    if unlabeled := checked.unlabeled:
        training, trainer, rounds = learn_without_labels(training, trainer, unlabeled, stack)
        members = members_of(training)
    train_members(members, trainer, stack)
    return Trained(training.splits, members, rounds, training.earlier_epochs)


def write_outcome(
    settings: Settings,
    features: "Features",
    checked: "CheckedClips",
    trained: "Trained",
    run: "OpenedRun",
    machine: "Machine",
    detector: "CalibratedModel",
    tested: "Tested",
) -> "Usage":
    """Write `detector.json` and `training_results.json`; return what the run has used."""
    from violence_detection.runs.results import TrainingData, write_detector, write_results
    from violence_detection.runs.usage import usage
    from violence_detection.settings.kinds import untrained_backbones
    from violence_detection.training.loop import describe_sampling

    untrained = bool(untrained_backbones(settings))
    recipes = features.recipes[: features.views]
    pseudo_labels = [{"unlabeled": len(checked.unlabeled), **r.as_json()} for r in trained.rounds]
    write_detector(
        *(run.directory, settings.features.frames, recipes, untrained),
        *(detector.point, checked.clip_seconds),
    )
    used = usage(
        time.perf_counter() - machine.started,
        machine.monitor.energy_kwh,
        settings.monitoring.electricity_price,
        settings.monitoring.cloud_price,
        trained.earlier_epochs,
    )
    write_results(
        run.directory,
        epochs=settings.training.epochs,
        point=detector.point,
        promised=detector.promised,
        tested=tested,
        clips=checked,
        training=TrainingData(
            *(describe_sampling(settings.training), settings.training.augment),
            *(trained.splits.factors, pseudo_labels),
            folds=trained.folds,
            fusion=detector.fusion,
        ),
        untrained_vgg19=untrained,
        used=used,
        seconds_by_stage=machine.clock.seconds,
    )
    return used


def publish(settings: Settings, run: "OpenedRun", trackers: "Trackers") -> None:
    """Write the report, and the figures where they are compared with those of other runs."""
    from violence_detection.reporting.final_figures import show_final_figures
    from violence_detection.runs.files import REPORT, RESULTS
    from violence_detection.runtime.progress import running_clock

    directory, with_report = run.directory, settings.monitoring.report
    with running_clock("writing the report", settings.monitoring.quiet):
        figures = show_final_figures(directory.folder, settings.as_json(), with_report)
    trackers.finish(figures, [directory / REPORT, directory / RESULTS])


def print_summary(settings: Settings, run: "OpenedRun", tested: "Tested", used: "Usage") -> None:
    """Log the verdict and test figures, what the run has used, and where to look next."""
    from violence_detection.runs.files import BEST_MODEL, REPORT, TENSORBOARD
    from violence_detection.runs.results import describe_test
    from violence_detection.runs.usage import describe_usage

    directory = run.directory
    folder = quote(str(directory.folder))
    later = f"python report.py --checkpoint-dir {folder}"
    lines = (
        *describe_test(tested),
        f"best epoch {directory.best_epoch()} of {len(directory.history)}; {describe_usage(used)}",
        f"report   {directory / REPORT if settings.monitoring.report else later}",
        f"model    {directory / BEST_MODEL}",
        f"curves   tensorboard --logdir {quote(str(directory / TENSORBOARD))}",
        f"next     python predict.py --checkpoint-dir {folder} CLIP…",
    )
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    leave(main())
