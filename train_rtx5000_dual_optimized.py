"""Train a violence detector on a folder of labelled clips: the whole job, from top to bottom.

    python train_rtx5000_dual_optimized.py --dataset-path DIR
    python train_rtx5000_dual_optimized.py --demo

clips -> 16 frames each -> VGG19 features, cached -> batches -> attention-LSTM -> test.
"""

import os
import sys
import time
from collections.abc import Sequence

from config import CLASS_NAMES, SPLITS, UNREADABLE_LIMIT, Settings, parse_settings
from errors import UserError, run_or_explain

STANDARDIZE_ON = 2048  # clips: enough for a mean and a deviation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    return run_or_explain(lambda: train(parse_settings(arguments)), debug)


def train(settings: Settings) -> int:
    """Run the job that `settings` describe."""
    started = time.perf_counter()

    # Clips: which, of which class, in which split.
    from clips import (
        count_by_split,
        find_clips,
        fingerprint,
        groups_on_two_sides,
        require_both_classes,
    )
    from run_directory import (
        BEST_MODEL,
        LOG,
        PREDICTIONS,
        RESULTS,
        TENSORBOARD,
        RunDirectory,
        write_json,
    )
    from run_log import log, native_messages_to, start_log

    if settings.demo:
        from demo_clips import draw_demo_clips

        draw_demo_clips(settings.dataset_path)
    clips = find_clips(settings.dataset_path, settings.seed)

    # The checkpoint directory: a new run, an interrupted one to continue, or a finished one.
    run = RunDirectory(settings.checkpoint_dir)
    run.prepare()
    continuing = run.has_run() and settings.resume
    if continuing:
        run.require_same(settings, clips)
    start_log(run / LOG)
    if continuing and run.is_finished():
        log.info(
            "this run is finished; its results are in %s. "
            "To train anew: --fresh, or another --checkpoint-dir",
            run / RESULTS,
        )
        return 0
    counts = count_by_split(clips)
    for split, of_class in counts.items():
        log.info("%-6s %s", split, ", ".join(f"{n} {name}" for name, n in of_class.items()))
    two_sided = groups_on_two_sides(clips)
    for group, sides in two_sided.items():
        log.warning(
            "group %s lies in %s: clips of one source on two sides make the figures look "
            "better than they are; move them to one side",
            group,
            " and ".join(sides),
        )

    # Devices and precision. TensorFlow takes seconds to load: only now, when the rest is known
    # to be right.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes on how it was compiled
    with native_messages_to(run / LOG):
        import keras
        import tensorflow as tf

        from devices import (
            choose_precision,
            describe_devices,
            find_devices,
            gpus_left_out,
            make_strategy,
        )

        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
        devices = find_devices(settings.replicas)
        strategy = make_strategy(devices, settings.batch_size)
    if gpus_left_out(devices):
        log.warning(
            "there is an NVIDIA GPU here, but TensorFlow does not find it: pip install -r "
            "requirements-gpu.txt (its own words are in %s)",
            run / LOG,
        )
    replicas = strategy.num_replicas_in_sync
    precision = choose_precision(settings.mixed_precision, devices[0].device_type)
    for line in describe_devices(devices):
        log.info("device %s", line)
    log.info("%s: %s", precision.computation, precision.reason)
    if devices[0].device_type == "GPU":
        log.info("XLA %s", "on" if settings.xla else "off")
    else:
        log.info(
            "XLA %s",
            "on: on a CPU, training is faster without --xla"
            if settings.xla
            else "off, but for standardizing the features, where it is faster",
        )

    # Features: VGG19 up to a layer, computed once per clip and kept.
    from feature_cache import FeatureCache, Recipe
    from feature_extraction import extract_features, on_replicas, too_many_unreadable
    from model_architecture import feature_size, identify_weights, load_vgg19_weights, vgg19

    weights, layer = settings.vgg19_weights, settings.feature_layer
    if weights == "random":
        log.warning(
            "VGG19 HAS RANDOM WEIGHTS: the features are untrained. This is for trying the "
            "program out; give --vgg19-weights imagenet or a file for a detector"
        )
    recipe = Recipe(
        frames=settings.frames,
        layer=layer,
        weights=identify_weights(weights, layer),
        features=feature_size(layer),
        dtype=settings.feature_dtype,
    )
    cache = FeatureCache(settings.cache_dir, recipe)

    def make_extractor() -> keras.Model:
        model = vgg19(layer, precision.computation)
        load_vgg19_weights(model, weights, layer)
        return model

    extraction_started = time.perf_counter()
    rows, bad = extract_features(
        clips,
        cache,
        lambda: on_replicas(strategy, make_extractor),
        replicas,
        stop_at_bad_clip=settings.on_bad_clip == "fail",
    )
    cache.close()
    log.info(
        "features of %d clips at %s in %s (%.1f s)",
        len(rows),
        layer,
        cache.path,
        time.perf_counter() - extraction_started,
    )
    for item in bad:
        log.warning("bad clip %s: %s", item.clip.path, item.reason)
    if complaint := too_many_unreadable(bad, clips, UNREADABLE_LIMIT):
        raise UserError(complaint)
    if bad:
        log.warning(
            "%d bad clips are %s (--on-bad-clip)",
            len(bad),
            {"skip": "left out", "zeros": "kept as zeros"}[settings.on_bad_clip],
        )
    if settings.on_bad_clip == "zeros":
        rows |= {item.clip: -1 for item in bad}
    usable = [clip for clip in clips if clip in rows]
    require_both_classes(usable)

    # Batches: each split's features, read from the cache as they are needed.
    from input_pipeline import (
        ClipFeatures,
        evaluation_batches,
        read_errors,
        sample_features,
        steps_per_epoch,
        training_batches,
    )
    from training import class_factors, focal_alpha, make_trainer

    factors = class_factors([c.label for c in usable if c.split == "train"], settings)
    log.info(
        "in the loss %s (class weights %s, focal alpha %s)",
        ", ".join(
            f"a {name} clip counts {factor:.3f}"
            for name, factor in zip(CLASS_NAMES, factors, strict=True)
        ),
        "off" if not settings.use_class_weights else settings.class_weights or "balanced",
        focal_alpha(settings) or "none",
    )
    stored = cache.rows()
    by_split = {split: [clip for clip in usable if clip.split == split] for split in SPLITS}
    features = {
        split: ClipFeatures(
            stored, [rows[clip] for clip in chosen], [c.label for c in chosen], factors
        )
        for split, chosen in by_split.items()
        if chosen
    }
    global_batch = settings.batch_size * settings.gradient_accumulation  # clips per optimizer step
    steps = steps_per_epoch(len(features["train"]), global_batch)
    validation_steps = steps_per_epoch(len(features["val"]), settings.batch_size)

    # Model, loss, schedule, optimizer. Seeded here: whether VGG19 was built before, or its features
    # were found in the cache, makes no difference to the first weights.
    keras.utils.set_random_seed(settings.seed)
    with strategy.scope(), read_errors(features.values()):
        sample = sample_features(
            features["train"], settings.batch_size, settings.seed, STANDARDIZE_ON
        )
        trainer = make_trainer(settings, sample, steps, validation_steps, precision.policy)
    log.info(
        "attention-LSTM of %s parameters; %d steps an epoch of %d clips, %d a replica",
        f"{trainer.classifier.count_params():,}",
        steps,
        global_batch,
        global_batch // replicas,
    )

    # Training, from the last finished epoch on. Nothing of an earlier run is touched before here.
    from callbacks import (
        EarlyStopping,
        FinishEpoch,
        SayFirstStep,
        SeedEpoch,
        write_models_of_last_epoch,
    )

    if not continuing:
        if run.has_run():
            log.info("the earlier run was set aside in %s", run.set_aside())
            start_log(run / LOG)
        run.write_config(settings, clips, describe_devices(devices), precision.computation)
    inputs = {
        "the clips that can be read": fingerprint(usable),
        "their content or the VGG19 weights": cache.fingerprint([rows[clip] for clip in usable]),
        "the precision": precision.policy,
    }
    if run.restore(inputs):
        trainer.load_weights(run.weights)
        write_models_of_last_epoch(run, trainer)
        log.info("continuing after epoch %d of %d", len(run.history), settings.epochs)
    early_stopping = EarlyStopping(run, settings.early_stopping_patience)
    if not early_stopping.due():
        has_bar = sys.stdout.isatty()  # the progress bar is for a terminal only
        with read_errors(features.values()):
            trainer.fit(
                training_batches(
                    features["train"],
                    global_batch,
                    settings.seed,
                    first_epoch=len(run.history),
                    epochs=settings.epochs,
                ),
                initial_epoch=len(run.history),
                epochs=settings.epochs,
                steps_per_epoch=steps,
                validation_data=evaluation_batches(features["val"], settings.batch_size),
                validation_steps=validation_steps,
                callbacks=[
                    SeedEpoch(settings.seed),
                    SayFirstStep(started, on_screen=not has_bar),
                    FinishEpoch(run, inputs, len(features["train"]), on_screen=not has_bar),
                    early_stopping,
                    keras.callbacks.TensorBoard(run / TENSORBOARD, write_graph=False),
                ],
                shuffle=False,  # the batches are shuffled already
                verbose=int(has_bar),
            )
    stopped_early = len(run.history) < settings.epochs
    if stopped_early:
        log.info(
            "stopped early: no lower validation loss for %d epochs",
            settings.early_stopping_patience,
        )

    # Test: the best model on clips that it has never seen.
    from evaluation import (
        classification_figures,
        figures_table,
        violence_probabilities,
        write_predictions,
    )

    tested = "test" if "test" in features else "val"
    best = keras.models.load_model(run / BEST_MODEL)
    probabilities = violence_probabilities(best, features[tested], settings.batch_size)
    figures = classification_figures(features[tested].labels, probabilities)
    write_predictions(by_split[tested], probabilities, run / PREDICTIONS)
    best_epoch = run.best_epoch()
    log.info("best model: epoch %d of %d", best_epoch, len(run.history))
    if tested == "val":
        log.warning("there is no test split: these are the figures of the VALIDATION clips")
    log.info("%s split, %d clips\n%s", tested, figures["clips"], figures_table(figures))
    if weights == "random":
        log.warning("VGG19 had random weights: these figures say nothing about trained features")
    write_json(
        run / RESULTS,
        {
            "best_epoch": best_epoch,
            "epochs_trained": len(run.history),
            "stopped_early": stopped_early,
            "validation": run.history[best_epoch - 1],
            "evaluated_split": tested,
            "evaluation": figures,
            "untrained_vgg19": weights == "random",
            "class_factors": dict(zip(CLASS_NAMES, factors, strict=True)),
            "clips": counts,
            "bad_clips": [
                {"clip": item.clip.name, "split": item.clip.split, "reason": item.reason}
                for item in bad
            ],
            "on_bad_clip": settings.on_bad_clip,
            "groups_on_two_sides": two_sided,
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    log.info("everything is in %s", run.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
