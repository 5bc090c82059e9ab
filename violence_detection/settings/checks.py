"""What must be true of the settings, before anything is loaded or read."""

from violence_detection.errors import UserError
from violence_detection.settings.constants import (
    CACHED_BELOW,
    FEATURES,
    FLOW_GATED,
    LAST_LAYER,
    LATE,
    OF_WHOLE_BATCHES,
    PIXEL_AUGMENTATIONS,
    PIXELS,
    VGG19,
)
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.model import ModelSettings
from violence_detection.settings.schema import FIELDS, Settings, require_allowed
from violence_detection.settings.setting import flag, setting_of
from violence_detection.settings.values import format_value

# What settings of a backbone, a head and windows are where a network is trained from pixels.
WITHOUT_BACKBONE = {
    **{"weak": False, "fine_tune": "none", "head": ModelSettings().head, "feature_pooling": "mean"},
    **{"backbone": PIXELS, "feature_layer": LAST_LAYER, "vgg19_weights": "none"},
}
OF_FRAMES = ("noise", "flip")  # augmentations that leave windows as they are


def check_settings(settings: Settings) -> None:
    """Raise `UserError` if a value is out of its range or two settings contradict each other."""
    for name, value in settings.by_name().items():
        if value is not None:
            try:
                require_allowed(value, setting_of(FIELDS[name]))
            except ValueError as error:
                raise UserError(f"{flag(name)} {format_value(value)}: {error}") from error
    if settings.data.dataset_path is None and not settings.experiment.preflight:
        raise UserError("--dataset-path is missing: name the folder of clips, or try --demo")
    for group in (settings.data, settings.features, settings.training, settings.loss):
        group.require_valid()
    settings.experiment.require_valid()
    _check_kinds(settings)
    for kind in kinds_of(settings):
        _check_pixels(kind)
        _check_fine_tuning(kind)
    _check_weak(settings)
    if settings.experiment.requested:
        for name in ("extract_only", "unlabeled", "subgroup"):
            if settings.by_name()[name]:
                raise UserError(
                    f"{flag(name)} does nothing with --cross-validate, --find-lr, --tune or "
                    "--grid: drop it"
                )
    for kind in kinds_of(settings):
        check_batch_divides(kind.training.batch_size, settings.devices.replicas or 1)


def _check_kinds(settings: Settings) -> None:
    """Raise `UserError` if a setting does not go with several kinds of classifiers."""
    models, features = settings.training.models, settings.features
    from_pixels = settings.model.from_pixels or any(model != FEATURES for model in models)
    if features.pixels != Settings().features.pixels and not from_pixels:
        raise UserError("--pixels does nothing without --model 3d or flow-gated: drop it")
    if models and settings.model.from_pixels:
        raise UserError(f"--ensemble {','.join(models)} names the models: drop --model")
    several_backbones = len(features.backbones) > 1
    if settings.model.fusion == LATE and not several_backbones:
        raise UserError(f"--fusion {LATE} is of several backbones: name them, or drop it")
    kinds = kinds_of(settings)
    _check_pretraining(settings, sum(kind.model.from_pixels for kind in kinds))
    if len(kinds) == 1:
        return
    given = f"--ensemble {','.join(models)}" if len(models) > 1 else f"--fusion {LATE}"
    others = settings.experiment
    for name, value in (
        *(("weak", settings.weak.weak), ("unlabeled", settings.training.unlabeled)),
        *(("find_lr", others.find_lr), ("tune", others.tune), ("grid", others.grid)),
    ):
        if value:
            raise UserError(f"{flag(name)} is of one kind of classifier: drop it, or {given}")


def _check_pretraining(settings: Settings, networks: int) -> None:
    """Raise `UserError` if a setting does not go with --pretrain, or does nothing without it."""
    options = settings.training
    if options.pretrain is None:
        usual = Settings().training
        for name in ("pretrain_epochs", "pretrain_task"):
            if getattr(options, name) != getattr(usual, name):
                raise UserError(f"{flag(name)} does nothing without --pretrain DIR")
        return
    if options.pretrained_file and not options.pretrained_file.is_file():
        raise UserError(f"--pretrain {options.pretrained_file}: no such file")
    if networks != 1:
        raise UserError("--pretrain is of one network from pixels: give --model 3d or flow-gated")
    if options.unlabeled:
        raise UserError("--unlabeled does not go with --pretrain: drop one")
    others = settings.experiment
    for name in ("find_lr", "tune", "grid"):
        if getattr(others, name):
            raise UserError(f"{flag(name)} does not go with --pretrain: drop one")


def _check_weak(settings: Settings) -> None:
    """Raise `UserError` if a setting does not go with --weak, or does nothing without it."""
    if not settings.weak.weak:
        for name, value in vars(settings.weak).items():
            if value != getattr(Settings().weak, name):
                raise UserError(f"{flag(name)} does nothing without --weak: give both, or drop it")
        return
    features, training = settings.features, settings.training
    if features.frames_in_cache != features.frames:
        raise UserError(
            f"--cached-frames {features.cached_frames} does not go with --weak: drop it"
        )
    if training.unlabeled:
        raise UserError("--unlabeled does not go with --weak: drop one")
    others = [kind for kind in training.augment if kind not in OF_FRAMES]
    if others:
        raise UserError(
            f"--augment {','.join(others)} does not go with --weak, {' and '.join(OF_FRAMES)} do"
        )


def _check_pixels(settings: Settings) -> None:
    """Raise `UserError` if a setting does not go with a network from pixels, or needs one."""
    model, features, augment = settings.model, settings.features, settings.training.augment
    if model.model == FEATURES:
        if only := [kind for kind in augment if kind in PIXEL_AUGMENTATIONS]:
            raise UserError(f"--augment {only[0]} needs --model 3d or flow-gated")
        if features.backbone == PIXELS:
            raise UserError(f"backbone {PIXELS}: give --model 3d or flow-gated with it")
        return
    given = f"--model {model.model}"
    if model.model == FLOW_GATED and features.streams != ("rgb", "flow"):
        raise UserError(f"--streams {','.join(features.streams)}: {given} takes rgb,flow: drop it")
    if others := [kind for kind in augment if kind in OF_WHOLE_BATCHES]:
        raise UserError(f"--augment {others[0]} does not go with {given}: it is of features")
    for name, value in WITHOUT_BACKBONE.items():
        if settings.by_name()[name] != value:
            raise UserError(f"{flag(name)} does not go with {given}: drop one")


def _check_fine_tuning(settings: Settings) -> None:
    """Raise `UserError` if a setting does not go with --fine-tune."""
    kind, features = settings.model.fine_tune, settings.features
    if kind == "none":
        return
    given = f"--fine-tune {kind}"
    if features.backbone != VGG19:
        raise UserError(f"{given} trains layers of VGG19: drop --backbone {features.backbone}")
    layer, pooling = CACHED_BELOW[kind]
    if (features.feature_layer, features.feature_pooling) != (layer, pooling):
        raise UserError(
            f"{given} is of --feature-layer {layer} --feature-pooling {pooling}: leave them out"
        )


def check_batch_divides(batch_size: int, replicas: int) -> None:
    """Raise `UserError` if `replicas` do not divide the global batch size."""
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        fitting = " or ".join(str(size) for size in (below, below + replicas) if size)
        raise UserError(
            f"--batch-size {batch_size} is not divisible by {replicas} replicas: use {fitting}"
        )
