"""The training command with `--preflight`: the real path on a few clips, checked and timed.

All that is written goes into a temporary folder. With --weak, whole videos are taken for clips;
of an ensemble of several kinds, the first is tried.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from violence_detection.clips.clip import Clip
from violence_detection.clips.decoders import decoder_count
from violence_detection.clips.demo import draw_clip
from violence_detection.clips.loading import ALONE, Dataset, find_dataset
from violence_detection.experiments.preflight import forecast, machine_checks
from violence_detection.experiments.preflight.checks import (
    FAILED,
    PASSED,
    SKIPPED,
    Check,
    as_row,
    attempted,
)
from violence_detection.experiments.preflight.numeric_checks import (
    check_all_reduce,
    check_classifier,
    check_features,
    check_replicas,
)
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.extraction import BadClip
from violence_detection.features.prepare import Features, prepare_features
from violence_detection.features.recipe import stored_recipes, stream_recipes
from violence_detection.models import backbone_title
from violence_detection.models.networks import build_classifier
from violence_detection.models.vgg19_weights import check_all_weights
from violence_detection.runtime.devices import gpu_names, gpus_left_out
from violence_detection.runtime.gpus import GIBIBYTE
from violence_detection.runtime.hardware import hardware_source
from violence_detection.runtime.logs import (
    native_messages_to,
    only_warnings_and_progress_on_screen,
    start_log,
)
from violence_detection.runtime.machine import Machine, set_up_machine
from violence_detection.runtime.progress import running_clock
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.runtime.wording import count_of
from violence_detection.runtime.worker import Worker, find_worker, require_supported
from violence_detection.settings.constants import CHECKPOINT_EVERY, CLASS_NAMES, SPLITS
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.schema import Settings
from violence_detection.settings.training import WeakSettings
from violence_detection.training.splits import features_of_clips

CLIPS = 20
ASSUMED = 10_000  # clips, where none are given
FRAMES_COMPARED = 8
LOGS = 100e6  # bytes of logs, report and event files, about


class Table:
    """Prints checks as they are made, and counts them."""

    def __init__(self) -> None:
        self.count = dict.fromkeys((PASSED, FAILED, SKIPPED), 0)

    def add(self, checks: Iterable[Check]) -> None:
        """Print checks, each when it is made."""
        for check in checks:
            self.count[check.state] += 1
            self.line(as_row(check.state, check.name, check.detail))

    def line(self, text: str) -> None:
        """Print a line above a clock that runs."""
        with tqdm.external_write_mode():
            print(text, flush=True)


def run_preflight(settings: Settings) -> int:
    """Check the machine with these settings and forecast the run; print a table.

    Args:
        settings: of the run.

    Returns:
        The exit status: 0, or 1 if a check failed.

    Raises:
        UserError: there are no clips or weights, or there are several workers.
    """
    started = time.perf_counter()
    require_supported(settings, find_worker(settings.devices.cluster))
    check_all_weights(settings)
    settings = _of_one_kind(settings)
    table = Table()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight-")))
        log_file = folder / "preflight.log"
        start_log(log_file)
        stack.enter_context(only_warnings_and_progress_on_screen())
        is_drawn = settings.data.dataset_path is None or settings.data.demo
        dataset = _drawn(folder / "clips") if is_drawn else find_dataset(settings, stack)
        trained = [clip for clip in dataset.clips if clip.split == SPLITS[0]]
        size = (ASSUMED, ASSUMED) if is_drawn else (len(dataset.all_clips), len(trained))
        which = "drawn ones" if is_drawn else f"of {count_of(len(dataset.clips), 'clip')}"
        table.line(f"Preflight on {min(CLIPS, len(dataset.clips))} clips, {which}\n")
        machine = _find_machine(settings, log_file, started, stack, table)
        table.add(attempted("disks", lambda: disk_checks(settings, dataset, size[0])))
        if machine is not None:
            with (
                native_messages_to(log_file) as screen,
                running_clock("checking", settings.monitoring.quiet, screen),
            ):
                own = settings.replace(
                    **{"cache_dir": folder / "cache", "cache_local": None, "max_bad_clips": 1.0},
                    **{"on_bad_clip": "skip", "checkpoint_dir": folder / "run"},
                )
                chosen = dataclasses.replace(dataset, clips=_chosen(dataset.clips), unlabeled=[])
                _check_and_forecast(own, settings.data.max_bad_clips, chosen, size, machine, table)
    words = ", ".join(f"{number} {state}" for state, number in table.count.items())
    table.line(f"\n{words}; {time.perf_counter() - started:.0f} s")
    return int(table.count[FAILED] > 0)


def _of_one_kind(settings: Settings) -> Settings:
    """Return the settings of one kind of classifier, on whole clips."""
    first = kinds_of(settings)[0].replace(**vars(WeakSettings()))
    return first.replace(ensemble=1, unlabeled=None, pretrain=None)


def _drawn(folder: Path) -> Dataset:
    """Return clips that are drawn into a folder."""
    random = np.random.default_rng(0)
    folder.mkdir()
    clips = []
    for number in range(CLIPS):
        path = folder / f"{CLASS_NAMES[number % 2]}_{number:02d}.mp4"
        draw_clip(path, bool(number % 2), random)
        clips.append(Clip(folder, path.name, number % 2, SPLITS[0]))
    return Dataset(clips, [], ALONE)


def _chosen(clips: Sequence[Clip]) -> list[Clip]:
    """Return some clips, evenly spaced, of both classes in turn; all are trained on."""
    by_class = []
    for label in range(len(CLASS_NAMES)):
        own = [clip for clip in clips if clip.label == label]
        spaced = np.linspace(0, len(own) - 1, min(CLIPS // 2, len(own))).astype(int)
        by_class.append([own[index] for index in spaced])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_class))
    return [dataclasses.replace(clip, split=SPLITS[0], group=None) for clip in turns if clip]


def _find_machine(
    settings: Settings, log_file: Path, started: float, stack: ExitStack, table: Table
) -> Machine | None:
    """Find the devices as a run does, and check them; None: they cannot be used."""
    found: list[Machine] = []

    def checks() -> Iterator[Check]:
        found.append(
            set_up_machine(
                *(settings, Worker(), log_file, stack),
                batch_size=settings.training.batch_size,
                started=started,
                clock=StageClock(),
            )
        )
        devices = found[0].devices
        has_gpu = devices[0].device_type == "GPU" or gpus_left_out(devices)
        yield machine_checks.check_gpus(devices)
        yield machine_checks.check_libraries(has_gpu, machine_checks.cuda_folders())
        yield machine_checks.check_memory_growth(devices)

    table.add(attempted("devices", checks))
    return found[0] if found else None


def disk_checks(settings: Settings, dataset: Dataset, clips: int) -> Iterator[Check]:
    """Check where a run writes; of a cache at a URL, its copy on this disk.

    Args:
        settings: the folders, the features and the classifier.
        dataset: whether it has groups.
        clips: that features are kept of.
    """
    data = settings.data
    recipes = stored_recipes(settings, not dataset.groups_are_given)
    cache, flag = data.cache_local or data.cache_dir, "--cache-dir"
    if isinstance(cache, str):
        cache, flag = data.spool_dir, "--spool-dir"
    elif data.cache_local:
        flag = "--cache-local"
    values = sum(recipe.features for recipe in stream_recipes(settings) if not recipe.flipped)
    weights = build_classifier(settings, settings.features.frames, values).count_params()
    kept = settings.training.epochs // CHECKPOINT_EVERY + 3  # and the best, the last, its state
    for name, folder, needed, its_flag in (
        ("cache", cache, forecast.cache_bytes(recipes, clips), flag),
        # Of each weight its value and Adam's two moments, in float32.
        ("checkpoints", data.checkpoint_dir, kept * 12 * weights + LOGS, "--checkpoint-dir"),
    ):
        yield machine_checks.check_writable(f"{name} writable", folder, its_flag)
        yield machine_checks.check_room(f"disk room, {name}", folder, needed, its_flag)
    yield machine_checks.check_codecs()


def _check_and_forecast(
    settings: Settings,
    max_bad_clips: float,
    dataset: Dataset,
    size: tuple[int, int],
    machine: Machine,
    table: Table,
) -> None:
    """Run the real path on a few clips, check what it computes, and forecast the run.

    Args:
        settings: with folders that are removed afterwards.
        max_bad_clips: of the run.
        dataset: the few clips.
        size: of the run's dataset, and of its training split.
        machine: the devices.
        table: that is printed.
    """
    found: list[Features] = []

    def decoders() -> Iterator[Check]:
        found.append(prepare_features(settings, dataset, machine, None))
        yield decoding_check(found[0].bad, len(dataset.clips), max_bad_clips)

    table.add(attempted("decoders and features", decoders))
    if not (found and found[0].rows):
        table.add([Check("the rest", SKIPPED, "there are no features to compute with")])
        return
    features, clips = found[0], list(found[0].rows)
    recipes = features.recipes[: features.views]
    known = features_of_clips(clips, features, settings)
    networks = {recipe.network: recipe for recipe in reversed(recipes)}.values()
    for recipe in networks:
        check = partial(_feature_checks, clips[0], recipe, settings, machine)
        table.add(attempted(backbone_title(recipe.backbone), check))
    table.add(attempted("classifier", lambda: check_classifier(settings, known, machine)))
    table.add(attempted("replicas", lambda: [check_replicas(settings, known, machine)]))
    table.add(attempted("all-reduce", lambda: [check_all_reduce(machine)]))
    table.add(attempted("forecast", lambda: _forecast(settings, features, size, machine, table)))


def decoding_check(bad: Sequence[BadClip], clips: int, limit: float) -> Check:
    """Check that not more clips are unreadable than the settings allow.

    Args:
        bad: the clips that cannot be read.
        clips: that were tried.
        limit: the share, 0 to 1.
    """
    processes = decoder_count()
    by = f"{processes} process{'' if processes == 1 else 'es'}"
    read = f"{clips - len(bad)} of {clips} clips read by {by}"
    if len(bad) > limit * clips:
        first = f"{bad[0].clip.path}: {bad[0].reason}"
        return Check("decoders and features", FAILED, f"{first}: repair or remove it; {read}")
    return Check("decoders and features", PASSED, read)


def _feature_checks(
    clip: Clip, recipe: Recipe, settings: Settings, machine: Machine
) -> list[Check]:
    return check_features(_images(clip, recipe, settings), recipe, settings, machine)


def _images(clip: Clip, recipe: Recipe, settings: Settings) -> np.ndarray:
    """Return some frames of a clip as a network sees them, `(1, frames, 224, 224, 3)` uint8."""
    views = [(recipe.stream, recipe.flipped)]
    frames, limit = settings.features.frames_in_cache, settings.data.clip_timeout
    (decoded,) = forecast.decoded([clip], frames, views, limit)
    if isinstance(decoded, Exception):
        raise decoded
    return decoded[:, :FRAMES_COMPARED]


def _forecast(
    settings: Settings,
    features: Features,
    size: tuple[int, int],
    machine: Machine,
    table: Table,
) -> Iterator[Check]:
    """Measure the stages; print what follows for the run. Yields nothing."""
    clips, limit = list(features.rows), settings.data.clip_timeout
    views = list(dict.fromkeys((r.stream, r.flipped) for r in features.recipes))
    frames = settings.features.frames_in_cache
    cost = forecast.training_cost(settings, features_of_clips(clips, features, settings), machine)
    rates = forecast.Rates(
        forecast.decoding_rate(clips, frames, [("rgb", False)], limit),
        forecast.decoding_rate(clips, frames, views, limit),
        forecast.network_rate(features.recipes, settings, machine),
        cost.rate,
        machine.devices[0].device_type == "GPU",
    )
    memory = hardware_source(gpu_names(machine.devices)).memory_gib[:1]
    known = memory[0] * GIBIBYTE if memory and memory[0] else None
    batch = settings.training.global_batch
    rows = [
        *forecast.forecast_rows(rates, features.recipes, *size, settings.training.epochs),
        ("memory", forecast.describe_memory(cost, known, batch, machine.replicas)),
    ]
    table.line("\nForecast")
    for name, figures in rows:
        table.line(as_row("", name, figures))
    yield from ()
