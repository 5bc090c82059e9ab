"""Train a violence detector on a folder of labelled clips: the whole job, from top to bottom.

    python train_rtx5000_dual_optimized.py --dataset-path DIR
    python train_rtx5000_dual_optimized.py --demo

clips -> 16 frames each -> VGG19 features, cached -> batches -> attention-LSTM -> test.
"""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from violence_detection.errors import RunError, UserError
from violence_detection.runtime.interrupts import leave, run_or_explain
from violence_detection.settings.constants import CLASS_NAMES, SPLITS, UNLABELED, UNREADABLE_LIMIT
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings

log = logging.getLogger("violence_detection")

EXTRACTIONS = 3  # until no row is damaged: more than one is rare, more than two is the disk
SHOWN = 5  # of what may be thousands of pairs or clips; the log file and the results have all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    debug = "--debug" in (sys.argv if arguments is None else arguments)

    def job() -> int:
        settings = parse_settings(arguments)
        if settings.data.extract_only:
            from violence_detection.features.extract_only import extract_only

            return extract_only(settings)
        with contextlib.ExitStack() as held:  # folders that no other run may write meanwhile
            return train(settings, held)

    return run_or_explain(job, debug, resumable=True)


def train(settings: Settings, held: contextlib.ExitStack) -> int:
    """Run the job that `settings` describe; what it takes hold of is let go with `held`."""
    started = time.perf_counter()
    from violence_detection.runtime.stage_clock import TEST, StageClock, bottleneck

    clock = StageClock()

    # The workers: this process alone, or the same command on several hosts.
    from violence_detection.runtime.cluster import Cluster, code_checksums, shared_settings
    from violence_detection.runtime.worker import find_worker, require_supported

    worker = find_worker(settings.devices.cluster)
    require_supported(settings, worker)

    # Clips: which, of which class, in which split.
    from violence_detection.clips.dataset import find_clips, find_unlabeled
    from violence_detection.clips.splits import (
        count_by_split,
        fingerprint,
        groups_in_several_splits,
        require_both_classes,
    )
    from violence_detection.reporting.trackers import Trackers, make_trackers, require_trackers
    from violence_detection.runs.directory import Row, RunDirectory
    from violence_detection.runs.files import (
        BEST_MODEL,
        ENSEMBLE_MODEL,
        EXPERIMENTS_LOG,
        LEAKAGE,
        LOG,
        MEMBER,
        PREDICTIONS,
        PSEUDO_LABELS,
        REPORT,
        RESULTS,
        TAKEN,
        TEACHER,
        TENSORBOARD,
        WORKER_LOG,
    )
    from violence_detection.runs.versions import versions
    from violence_detection.runtime.logs import native_messages_to, start_log
    from violence_detection.storage.remote_paths import clips_folder

    if worker.is_chief:
        require_trackers(settings.monitoring.mlflow, settings.monitoring.wandb)
    dataset = held.enter_context(
        clips_folder(settings.data.dataset_path, settings.data.spool_dir, settings.data.spool_size)
    )
    if settings.data.demo and isinstance(dataset, Path):
        from violence_detection.clips.demo import draw_demo_clips

        draw_demo_clips(dataset)
    clips = find_clips(dataset, settings.devices.seed)
    unlabeled = find_unlabeled(settings.training.unlabeled) if settings.training.unlabeled else []

    # The checkpoint directory: a new run, an interrupted one to continue, or a finished one.
    run = held.enter_context(RunDirectory(settings.data.checkpoint_dir, worker))
    had_run = run.has_run()
    continuing = not settings.experiment.requested and had_run and settings.run.resume
    if continuing and run.writes:
        run.require_same(settings, clips)
    log_file = run / (LOG if not settings.experiment.requested else EXPERIMENTS_LOG)
    on_screen = logging.INFO
    if not worker.is_chief:
        log_file, on_screen = run / WORKER_LOG.format(worker.number), logging.WARNING
        print(
            f"worker {worker.number} of {worker.count} says what it does in {log_file}", flush=True
        )
    start_log(log_file, on_screen)
    if continuing and run.is_finished(settings.test.threshold_for):
        if run.writes and not (run / REPORT).exists():
            from violence_detection.reporting.page import write_report

            write_report(run.folder, run / REPORT)
        log.info(
            "this run is finished; its results are in %s. "
            "To train anew: --fresh, or another --checkpoint-dir",
            run / RESULTS,
        )
        return 0
    counts = count_by_split(clips)
    for split, of_class in counts.items():
        log.info("%-6s %s", split, ", ".join(f"{n} {name}" for name, n in of_class.items()))

    from violence_detection.runtime.progress import shows_bar
    from violence_detection.runtime.tensorflow_log import quiet_tensorflow

    # Devices and precision. TensorFlow takes seconds to load: only now, when the rest is known
    # to be right.
    # Which of several workers is lost is logged by name: TensorFlow's own errors would repeat it.
    quiet_tensorflow(errors_too=worker.count > 1)
    with native_messages_to(log_file):
        import keras
        import tensorflow as tf

        from violence_detection.runtime.devices import (
            choose_precision,
            describe_devices,
            enough_memory,
            find_devices,
            gpu_names,
            gpus_left_out,
            make_strategy,
            on_this_host,
        )

        tf.get_logger().setLevel("ERROR")  # it warns of a new graph for every fold's model
        if settings.devices.deterministic:
            tf.config.experimental.enable_op_determinism()
        devices = find_devices(settings.devices.replicas, worker.count)
        cluster = held.enter_context(Cluster(worker, settings.devices.cluster))
        strategy = make_strategy(devices, settings.training.batch_size, cluster)
    if gpus_left_out(devices):
        log.warning(
            "there is an NVIDIA GPU here, but TensorFlow does not find it: pip install -r "
            "requirements-gpu.txt (its own words are in %s)",
            log_file,
        )
    replicas = strategy.num_replicas_in_sync
    precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
    from violence_detection.runs.usage import describe_usage, usage
    from violence_detection.runtime.hardware import HardwareMonitor, hardware_source, utilization

    hardware = hardware_source(gpu_names(devices))
    monitor = held.enter_context(HardwareMonitor(hardware))
    device_lines = cluster.gather_lines(describe_devices(devices, hardware.memory_gib))
    for line in device_lines:
        log.info("device %s", line)
    has_bar = shows_bar(settings.monitoring.quiet)
    log.info("%s: %s", precision.computation, precision.reason)
    if devices[0].device_type == "GPU":
        log.info("XLA %s", "on" if settings.devices.xla else "off")
    else:
        log.info(
            "XLA %s",
            "on: on a CPU, training is faster without --xla"
            if settings.devices.xla
            else "off, but for standardizing the features, where it is faster",
        )

    if settings.experiment.requested:
        from violence_detection.experiments.run import check_experiment, run_experiment

        check_experiment(settings, clips)

    # Features: VGG19 up to a layer, computed once per clip and kept.
    from violence_detection.features.cache.feature_cache import FeatureCache
    from violence_detection.features.cache.folder import CacheFolder
    from violence_detection.features.cache.local import LocalCache
    from violence_detection.features.cache.transfer import (
        PeriodicUpload,
        copy_to_local_disk,
        wait_for_all_shares,
    )
    from violence_detection.features.extraction import (
        CLIPS_PER_REPLICA,
        BadClip,
        extract_features,
        on_replicas,
        stored_recipes,
        too_many_unreadable,
    )
    from violence_detection.features.shares import share_of
    from violence_detection.features.survey import survey_features
    from violence_detection.models import RANDOM_WEIGHTS_WARNING
    from violence_detection.models.classifier import build_extractor

    weights, layer = settings.features.vgg19_weights, settings.features.feature_layer
    if weights == "random":
        log.warning("%s", RANDOM_WEIGHTS_WARNING)
    recipes = stored_recipes(settings)
    views = len(settings.features.streams) * (2 if "flip" in settings.training.augment else 1)
    # Copies are found by what clips show, not by how it moves: RGB features, or thumbnails.
    seen = settings.features.streams.index("rgb") if "rgb" in settings.features.streams else views

    kept_in = "a folder" if isinstance(settings.data.cache_dir, Path) else settings.data.cache_dir
    cluster.require_same(
        {
            "the code": code_checksums(Path(__file__)),
            "the versions": versions(),
            "the settings": shared_settings(settings),
            "the clips": fingerprint([*clips, *unlabeled]),
            "the VGG19 weights": [recipe.weights for recipe in recipes],
            "the replicas of a host": [device.device_type for device in devices],
            "the precision": precision.computation,
            "where features are kept": kept_in,
            "a run to continue (is --checkpoint-dir on a shared disk?)": continuing,
        }
    )

    make_extractor = partial(build_extractor, layer, weights, precision.computation)
    extraction_started = time.perf_counter()
    wanted = [*clips, *unlabeled]
    known_bad = run.bad_clips() if continuing else None

    def wait_for_cache(holder: str) -> None:
        log.info("%s has %s: waiting for it", holder, settings.data.cache_dir)

    cache_on_disk = held.enter_context(
        LocalCache(settings.data.cache_dir, settings.data.spool_dir, worker, wait_for_cache)
    )
    with CacheFolder(
        cache_on_disk.path, wait_for_cache, worker, settings.data.cache_local
    ) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        uploads = PeriodicUpload(
            cache_on_disk, settings.data.cache_local, recipes, worker, wait_for_cache
        )
        for attempt in range(EXTRACTIONS):
            with enough_memory(
                devices,
                f"VGG19 on {CLIPS_PER_REPLICA} clips of {recipes[0].frames} frames a replica",
                "Fewer --frames or a lower --feature-layer take less; or end what else uses it",
            ):
                rows, bad = extract_features(
                    share_of(wanted, worker),
                    caches,
                    lambda: on_replicas(on_this_host(strategy, devices), make_extractor),
                    len(devices),
                    settings.data.clip_timeout,
                    stop_at_bad_clip=settings.data.on_bad_clip == "fail",
                    known_bad=known_bad,
                    clock=clock,
                    bar=has_bar,
                    after_batch=uploads.upload_if_due,
                )
            uploads.upload_now()
            if worker.count > 1:
                # The others' shares, once all have them.
                own = {item.clip.name: item.reason for item in bad}
                of_all = cluster.gather("the features", own)
                reasons = {name: why for of_one in of_all for name, why in of_one.items()}
                bad = [BadClip(c, reasons[c.name]) for c in wanted if c.name in reasons]
                caches, rows = wait_for_all_shares(wanted, reasons, cache_on_disk, folder, recipes)
            if settings.data.cache_local:
                rows = copy_to_local_disk(rows, caches)
            if attempt == 0:
                for item in bad:
                    log.warning("bad clip %s: %s", item.clip.path, item.reason)
            if complaint := too_many_unreadable(bad, clips, UNREADABLE_LIMIT):
                raise UserError(complaint)
            surveys = [
                survey_features(cache, [of_views[view] for of_views in rows.values()])
                for view, cache in enumerate(caches)
            ]
            damaged = sum(len(survey.damaged) for survey in surveys)
            if not any(cluster.gather("damaged rows", damaged)):
                break
            for cache, survey in zip(caches, surveys, strict=True):
                if survey.damaged:
                    log.warning(
                        "%d rows of %s features in %s are damaged (their checksums differ): "
                        "computed anew",
                        len(survey.damaged),
                        cache.recipe.stream,
                        folder.path,
                    )
                    cache.drop(survey.damaged)
            cluster.gather("damaged rows are struck out", damaged)
        else:
            raise RunError(
                f"{folder.path}: rows are damaged as soon as they are written: look at that disk, "
                "or give another --cache-dir"
            )
    cache_on_disk.upload()
    cache_on_disk.release()
    for cache in caches[:views]:
        log.info(
            "%s features%s of %d clips at %s in %s",
            cache.recipe.stream,
            " (mirrored)" if cache.recipe.flipped else "",
            len(rows),
            layer,
            cache_on_disk.location,
        )
    log.info("features took %.1f s", time.perf_counter() - extraction_started)
    used = utilization(monitor.take())
    if held_up := bottleneck(used, clock.seconds):
        log.warning("GPUs computed %.0f %% of the time for features. Held up by %s", used, held_up)
    clock.begin("checks")

    # What can be wrong with clips, before anything is learned from them.
    from violence_detection.features.checks import (
        contradicting_labels,
        require_varied_features,
        static_clips,
        uncertain_validation,
    )
    from violence_detection.features.leakage import find_leaks, write_leaks

    if bad:
        log.warning(
            "%d bad clips are %s (--on-bad-clip)",
            len(bad),
            {"skip": "left out", "zeros": "kept as zeros"}[settings.data.on_bad_clip],
        )
    require_varied_features(surveys[0])
    survey, seen_rows = surveys[seen], {clip: of_views[seen] for clip, of_views in rows.items()}
    conflicts = contradicting_labels(
        {clip: row for clip, row in seen_rows.items() if clip.split != UNLABELED}
    )
    for copies in conflicts[:SHOWN]:
        log.warning(
            "one file under both labels: %s; one of them is wrong: remove it",
            " and ".join(clip.name for clip in copies),
        )
    if len(conflicts) > SHOWN:
        log.warning("%d files in all are under both labels (%s)", len(conflicts), RESULTS)
    static = static_clips(seen_rows, survey)
    if static:
        log.warning(
            "in %d clips nothing moves (stills, test cards?): look at %s%s",
            len(static),
            ", ".join(clip.name for clip in static[:SHOWN]),
            f" and the others in {RESULTS}" if len(static) > SHOWN else "",
        )
    leaks, repeated = find_leaks(seen_rows, survey), set()
    if unlabeled:  # those that are like a clip of validation or test must not be learned from
        as_training = {
            dataclasses.replace(clip, split="train") if clip.split == UNLABELED else clip: row
            for clip, row in seen_rows.items()
        }
        found = {leak.clip.name for leak in find_leaks(as_training, survey)}
        of_training = {row for clip, row in seen_rows.items() if clip.split != UNLABELED}
        repeated = {
            clip for clip in unlabeled if clip.name in found or seen_rows.get(clip) in of_training
        }
        log.info(
            "%d unlabeled clips; %d of them repeat labelled ones and are left out",
            len(unlabeled),
            len(repeated),
        )
    if leaks:
        log.warning(
            "%d clips repeat clips of a later split, which makes its figures look better than they "
            "are (--on-leakage %s): %s",
            len({leak.clip for leak in leaks}),
            settings.data.on_leakage,
            "".join(f"\n  {leak}" for leak in leaks[:SHOWN]),
        )
        for leak in leaks[SHOWN:]:
            log.debug("leakage: %s", leak)
        if settings.data.on_leakage == "fail":
            if (
                run.writes and not settings.experiment.requested and (continuing or not had_run)
            ):  # else another's
                write_leaks(leaks, run / LEAKAGE)
            raise UserError(
                f"--on-leakage fail: {len(leaks)} pairs of clips, the first is {leaks[0]} (all are "
                f"in {LEAKAGE} or {LOG}). drop leaves the earlier split's clips out, warn goes on"
            )
    del survey, surveys, seen_rows  # at 100,000 clips, 50 MB and more
    if settings.data.on_bad_clip == "zeros":
        rows |= {item.clip: (-1,) * len(caches) for item in bad if item.clip.split != UNLABELED}
    leaking = {leak.clip for leak in leaks} if settings.data.on_leakage == "drop" else set()
    usable = [clip for clip in clips if clip in rows and clip not in leaking]
    require_both_classes(usable)
    by_split = {split: [clip for clip in usable if clip.split == split] for split in SPLITS}
    unlabeled = [clip for clip in unlabeled if clip in rows and clip not in repeated]
    if complaint := uncertain_validation(by_split["val"]):
        log.warning(complaint)

    # Batches: each split's features, read from the cache as they are needed.
    import numpy as np

    from violence_detection.training.batches import (
        ClipFeatures,
        Share,
        Supply,
        evaluation_batches,
        for_workers,
        read_errors,
        sample_features,
        steps_per_epoch,
        training_batches,
    )
    from violence_detection.training.loop import (
        STANDARDIZE_ON,
        describe_sampling,
        ensemble_members,
        make_order,
        prepare_order,
    )
    from violence_detection.training.losses import class_factors, focal_alpha
    from violence_detection.training.pseudo_labels import (
        PseudoLabels,
        read_pseudo_labels,
        take_sure_ones,
        write_pseudo_labels,
    )
    from violence_detection.training.trainer import Trainer, make_trainer

    everything = ClipFeatures(
        [cache.rows() for cache in caches[:views]],
        [rows[clip][:views] for clip in usable],
        [clip.label for clip in usable],
        frames=settings.features.frames,
        streams=len(settings.features.streams),
    )
    features = {
        split: everything.of([place for place, clip in enumerate(usable) if clip.split == split])
        for split in SPLITS
        if by_split[split]
    }

    def with_class_factors(train: ClipFeatures) -> tuple[float, float]:
        """Give training and validation clips their factors in the loss; return and say them."""
        factors = class_factors(
            make_order(settings.training, settings.devices.seed, train).class_counts(),
            settings.loss,
        )
        features["train"] = train.of(slice(None), factors)
        features["val"] = features["val"].of(slice(None), factors)
        log.info(
            "in the loss %s (class weights %s, focal alpha %s); sampling %s",
            ", ".join(
                f"a {name} clip counts {factor:.3f}"
                for name, factor in zip(CLASS_NAMES, factors, strict=True)
            ),
            "off"
            if not settings.loss.use_class_weights
            else settings.loss.class_weights or "balanced",
            focal_alpha(settings.loss) or "none",
            describe_sampling(settings.training),
        )
        return factors

    factors = with_class_factors(features["train"])
    log.info("augmentation: %s", ", ".join(settings.training.augment) or "none")

    # Instead of a run: cross-validation, range test, search, grid.
    if settings.experiment.requested:
        with strategy.scope(), read_errors([everything]):
            run_experiment(settings, everything, usable, precision.policy, run.folder)
        return 0
    global_batch = (
        settings.training.batch_size * settings.training.gradient_accumulation
    )  # clips per optimizer step
    validation_steps = steps_per_epoch(len(features["val"]), settings.training.batch_size)
    # Of several workers, what this one computes of every batch.
    share_in_training = share_in_validation = None
    if worker.count > 1:
        share_in_training = Share(worker, len(devices), settings.training.gradient_accumulation)
        share_in_validation = Share(worker, len(devices))

    # Model, loss, schedule, optimizer, for each member of an ensemble (of one, unless --ensemble).
    def training_memory() -> contextlib.AbstractContextManager[None]:
        return enough_memory(
            devices,
            f"training on batches of {settings.training.batch_size} clips of "
            f"{settings.features.frames} frames",
            f"A lower --batch-size, say {max(replicas, settings.training.batch_size // 2)}, takes "
            "less, "
            "with --gradient-accumulation 2 for the same clips per optimizer step",
        )

    def new_trainer(of_member: Settings) -> Trainer:
        # Seeded here: whether VGG19 was built before, or its features were found in the cache,
        # makes no difference to the first weights.
        keras.utils.set_random_seed(of_member.devices.seed)
        with (
            native_messages_to(log_file),  # oneDNN says that it has no float16
            strategy.scope(),
            training_memory(),
            read_errors(features.values()),
        ):
            sample = sample_features(
                features["train"],
                settings.training.batch_size,
                of_member.devices.seed,
                STANDARDIZE_ON,
            )
            steps = steps_per_epoch(len(features["train"]), global_batch)
            return make_trainer(of_member, sample, steps, validation_steps, precision.policy)

    trainer = new_trainer(settings)
    log.info(
        "%s of %s parameters; %d steps an epoch of %d clips, %d a replica%s",
        settings.model.head,
        f"{trainer.classifier.count_params():,}",
        steps_per_epoch(len(features["train"]), global_batch),
        global_batch,
        global_batch // replicas,
        f"; {replicas} replicas, {worker.count} workers" if worker.count > 1 else "",
    )

    # Training, from the last finished epoch on. Nothing of an earlier run is touched before here.
    from violence_detection.reporting.tensorboard import Profile, TensorBoardLog, write_hparams
    from violence_detection.runtime.progress import Progress
    from violence_detection.training.callbacks import (
        EarlyStopping,
        FinishEpoch,
        SayFirstStep,
        SeedEpoch,
        ShowProgress,
        StopOnInterrupt,
        TimeStages,
        make_good_best_model,
        write_models_of_last_epoch,
    )

    with cluster.chief_first("the checkpoint directory"):
        if not continuing:
            if had_run:
                if run.writes:
                    log.info("the earlier run was set aside in %s", run.set_aside())
                start_log(log_file, on_screen)
            run.write_config(
                settings,
                clips,
                {item.clip.name: item.reason for item in bad},
                device_lines,
                precision.computation,
            )
        else:
            run.update_config(settings)
        if run.writes:
            write_leaks(leaks, run / LEAKAGE)
    inputs = {
        "the clips that are used": fingerprint(usable),
        "their content or the VGG19 weights": " ".join(
            cache.fingerprint([rows[clip][view] for clip in usable])
            for view, cache in enumerate(caches[:views])
        ),
        "the precision": precision.policy,
    }
    if unlabeled:
        inputs["the unlabeled clips"] = " ".join(
            cache.fingerprint([rows[clip][view] for clip in unlabeled])
            for view, cache in enumerate(caches)
        )
    cluster.require_same(inputs)
    unlabeled_rows = [rows[clip][:views] for clip in unlabeled]
    del caches, rows  # of 100,000 clips, another 50 MB
    earlier: list[Row] = []  # epochs that were finished before this command
    watched = (
        (settings.monitoring.mlflow, settings.monitoring.wandb) if run.writes else (None, None)
    )
    trackers = held.enter_context(Trackers(make_trackers(*watched, run.folder), run))

    def train_member(member_run: RunDirectory, of_member: Settings, trainer: Trainer) -> None:
        """Train to the end, from the last finished epoch on; the best model is there afterwards."""
        train = features["train"]
        order = make_order(of_member.training, of_member.devices.seed, train)
        if weights_before := member_run.restore(inputs):
            trainer.load_state(weights_before)
            write_models_of_last_epoch(member_run, trainer)
            log.info(
                "continuing after epoch %d of %d", len(member_run.history), settings.training.epochs
            )
        early_stopping = EarlyStopping(
            member_run, settings.training.early_stopping_patience, cluster
        )
        boards = (
            [TensorBoardLog(member_run, features["val"], settings.training.batch_size)]
            if member_run.writes
            else []
        )
        finished = len(member_run.history)
        cluster.require_same({"the finished epochs (is its disk shared?)": finished})
        earlier.extend(member_run.history)
        if member_run is run:
            trackers.start(settings.as_json())
        if finished < settings.training.epochs and not early_stopping.due():
            with training_memory(), read_errors(features.values()):
                with strategy.scope():
                    mining = prepare_order(
                        of_member, train, order, trainer, precision.policy, finished
                    )
                supply = Supply()
                batches = training_batches(
                    train,
                    order,
                    global_batch,
                    first_epoch=finished,
                    epochs=settings.training.epochs,
                    augmentations=settings.training.augment,
                    supply=supply,
                    share=share_in_training,
                )
                validation = evaluation_batches(
                    features["val"], settings.training.batch_size, share_in_validation
                )
                if worker.count > 1:
                    batches = for_workers(batches, strategy)
                    validation = for_workers(validation, strategy)
                total = settings.training.epochs * len(train)
                progress = Progress("training", total, finished * len(train), bar=has_bar)
                profiled = settings.monitoring.profile and member_run is run and run.writes
                profiles = [Profile(run / TENSORBOARD)] if profiled else []
                callbacks = [
                    TimeStages(member_run, clock, supply),
                    StopOnInterrupt(),
                    SeedEpoch(of_member.devices.seed),
                    SayFirstStep(started if member_run is run else None),
                    ShowProgress(progress, len(train), global_batch),
                    *mining,
                    FinishEpoch(member_run, inputs, len(train), monitor),
                    early_stopping,
                    *boards,
                    *profiles,
                    keras.callbacks.LambdaCallback(
                        on_epoch_end=lambda epoch, logs: trackers.log_epochs()
                    ),
                ]
                try:
                    trainer.fit(
                        batches,
                        initial_epoch=finished,
                        epochs=settings.training.epochs,
                        steps_per_epoch=steps_per_epoch(len(train), global_batch),
                        validation_data=validation,
                        validation_steps=validation_steps,
                        callbacks=callbacks,
                        shuffle=False,  # the order is the batches' own
                        verbose=0,
                    )
                finally:
                    order.end()  # or the batches would wait for losses for ever
                    for profile in profiles:
                        profile.end()
        else:
            for board in boards:
                board.catch_up(trainer)
        if len(member_run.history) < settings.training.epochs:
            log.info(
                "stopped early: no lower validation loss for %d epochs",
                settings.training.early_stopping_patience,
            )
        make_good_best_model(member_run, trainer)
        log.info("best model: epoch %d of %d", member_run.best_epoch(), len(member_run.history))

    # Pseudo-labels: a teacher judges the unlabeled clips; what it is sure of is learned from.
    taken: list[PseudoLabels] = []
    labelled = features["train"]
    for number in range(1, settings.training.pseudo_rounds + 1 if unlabeled else 1):
        log.info("teacher %d of %d", number, settings.training.pseudo_rounds)
        teacher_run = held.enter_context(RunDirectory(run / f"{TEACHER}{number}"))
        train_member(teacher_run, settings, trainer)
        candidates = ClipFeatures(
            everything.stored,
            unlabeled_rows,
            np.zeros(len(unlabeled), int),
            frames=settings.features.frames,
            streams=len(settings.features.streams),
        )
        if (teacher_run / TAKEN).exists():
            taken.append(read_pseudo_labels(teacher_run / TAKEN))
        else:
            teacher = keras.models.load_model(teacher_run / BEST_MODEL, safe_mode=True)
            taken.append(take_sure_ones(teacher, features["val"], candidates, settings))
            taken[-1].write(teacher_run / TAKEN)
        log.info(
            "round %d: %d of %d unlabeled clips are taken, %d as nonviolent, %d as violent "
            "(confidence %g)",
            number,
            len(taken[-1].places),
            len(unlabeled),
            *np.bincount(taken[-1].labels, minlength=2),
            settings.training.pseudo_confidence,
        )
        factors = with_class_factors(taken[-1].added_to(labelled, candidates))
        inputs["the pseudo-labels"] = taken[-1].fingerprint()
        trainer = new_trainer(settings)
    if taken:
        write_pseudo_labels(unlabeled, taken, run / PSEUDO_LABELS)

    # The detector, or the members of an ensemble.
    member_runs = [run]
    for number, of_member in enumerate(ensemble_members(settings), start=1):
        if number > 1:
            log.info(
                "member %d of %d, seed %d",
                number,
                settings.training.ensemble,
                of_member.devices.seed,
            )
            member_run = RunDirectory(run / f"{MEMBER}{number}", worker)
            member_runs.append(held.enter_context(member_run))
            trainer = new_trainer(of_member)
        train_member(member_runs[-1], of_member, trainer)

    if not worker.is_chief:
        return 0  # once the chief, which tests alone, has ended

    # Verdicts: temperature and threshold of the best model, chosen on the validation clips.
    from violence_detection.evaluation.calibration import calibrate, choose_operating_point
    from violence_detection.evaluation.metrics import (
        FIGURES,
        evaluate,
        figures_table,
        format_figure,
    )
    from violence_detection.models.classifier import average_of
    from violence_detection.runs.results import (
        CheckedClips,
        Tested,
        TrainingData,
        write_detector,
        write_predictions,
        write_results,
    )
    from violence_detection.storage.files import replace_file
    from violence_detection.training.predictions import (
        violence_and_attention,
        violence_probabilities,
    )

    clock.begin(TEST)
    best_models = [
        keras.models.load_model(member / BEST_MODEL, safe_mode=True) for member in member_runs
    ]
    best, best_name = best_models[0], BEST_MODEL
    if len(best_models) > 1:
        best, best_name = average_of(best_models), ENSEMBLE_MODEL
        replace_file(run / best_name, best.save)
        run.record_checksum(best_name, epoch=0)
    for member in member_runs:
        for path in member.damaged_checkpoints():
            log.warning("%s is gone or damaged (its checksum differs): do not use it", path)
    judged = violence_probabilities(best, features["val"], settings.training.batch_size)
    point = choose_operating_point(features["val"].labels, judged, settings.test.threshold_for)
    log.info(
        "temperature %.2f, threshold %.3f for %s, both from the validation clips",
        point.temperature,
        point.threshold,
        point.chosen_for,
    )

    # Test: clips that the model has never seen.
    tested = "test" if "test" in features else "val"
    labels = features[tested].labels
    groups = [clip.group_key for clip in by_split[tested]]
    raw, attention = violence_and_attention(best, features[tested], settings.training.batch_size)
    of_members = [
        violence_probabilities(model, features[tested], settings.training.batch_size)
        for model in (best_models if len(best_models) > 1 else ())
    ]
    member_figures = [
        evaluate(labels, member, 0.5, groups, settings.devices.seed) for member in of_members
    ]
    probabilities = calibrate(raw, point.temperature)
    figures = evaluate(labels, probabilities, point.threshold, groups, settings.devices.seed)
    at_half = evaluate(labels, probabilities, 0.5, groups, settings.devices.seed)
    uncalibrated = evaluate(labels, raw, 0.5, groups, settings.devices.seed)
    write_predictions(
        by_split[tested], probabilities, point.threshold, attention, run / PREDICTIONS
    )
    if tested == "val":
        log.warning(
            "there is no test split: these are the figures of the VALIDATION clips, by which epoch "
            "and threshold were chosen"
        )
    log.info(
        "%s split, %d clips, %d groups; 95 %% intervals\n%s",
        tested,
        figures["clips"],
        figures["groups"],
        figures_table(figures, at_half, uncalibrated),
    )
    for number, of_one in enumerate(member_figures, start=1):
        log.info(
            "  member %d alone, threshold 0.5: accuracy %.3f, roc auc %.3f",
            number,
            of_one["accuracy"],
            of_one["roc_auc"],
        )
    if weights == "random":
        log.warning("VGG19 had random weights: these figures say nothing about trained features")
    write_detector(
        run, best_name, settings.features.frames, recipes[:views], weights == "random", point
    )
    spent = usage(
        time.perf_counter() - started,
        monitor.energy_kwh,
        settings.monitoring.electricity_price,
        settings.monitoring.cloud_price,
        earlier,
    )
    write_results(
        run,
        epochs=settings.training.epochs,
        point=point,
        tested=Tested(tested, figures, at_half, uncalibrated, member_figures),
        clips=CheckedClips(
            counts,
            {item.clip: item.reason for item in bad},
            settings.data.on_bad_clip,
            leaks,
            leaking,
            groups_in_several_splits(clips),
            conflicts,
            static,
        ),
        training=TrainingData(
            describe_sampling(settings.training),
            settings.training.augment,
            factors,
            [{"unlabeled": len(unlabeled), **of_round.as_json()} for of_round in taken],
        ),
        untrained_vgg19=weights == "random",
        used=spent,
        seconds_by_stage=clock.seconds,
    )

    # What there is to look at.
    from violence_detection.reporting.page import write_report

    write_report(run.folder, run / REPORT)
    metrics = {f"test_{name}": figures[name] for name in FIGURES}
    best_row = run.history[run.best_epoch() - 1]
    metrics |= {f"best_{name}": best_row[name] for name in ("val_accuracy", "val_loss", "val_auc")}
    write_hparams(run / TENSORBOARD, settings.as_json(), metrics)
    trackers.finish(metrics, [run / REPORT, run / RESULTS])
    log.info(
        "%s",
        "\n".join(
            (
                f"{tested} accuracy {format_figure(figures, 'accuracy')}, "
                f"ROC-AUC {format_figure(figures, 'roc_auc')}; "
                f"best epoch {run.best_epoch()} of {len(run.history)}",
                describe_usage(spent),
                f"report   {run / REPORT}",
                f"model    {run / best_name}",
                f"curves   tensorboard --logdir {run / TENSORBOARD}",
                f"next     python predict.py --checkpoint-dir {run.folder} CLIP…",
            )
        ),
    )
    return 0


if __name__ == "__main__":
    leave(main())
