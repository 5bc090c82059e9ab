"""From trained classifiers to a tested detector: calibrate, choose a threshold, test."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import keras
import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.evaluation.calibration import (
    HALF,
    OperatingPoint,
    calibrate,
    choose_operating_point,
)
from violence_detection.evaluation.doubtful_labels import Predictions
from violence_detection.evaluation.fusion import Fusion, fit_fusion
from violence_detection.evaluation.metrics import (
    evaluate,
    figure_words,
    figures_table,
    format_figure,
)
from violence_detection.evaluation.subgroups import subgroup_figures, subgroup_lines
from violence_detection.evaluation.verdict import EpochAccuracy, Void, find_verdict
from violence_detection.features.checked_clips import CheckedClips
from violence_detection.models import backbone_title
from violence_detection.models.classifier import Member as Part
from violence_detection.models.classifier import average_of, fusion_of, with_attention
from violence_detection.runs.directory import Row, RunDirectory
from violence_detection.runs.files import BEST_MODEL, LABEL_ISSUES, PREDICTIONS
from violence_detection.runs.label_issues import write_label_issues
from violence_detection.runs.results import Figures, Tested, write_predictions
from violence_detection.runtime.wording import count_of
from violence_detection.settings.kinds import kind_title, kinds_of, untrained_backbones
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import weights_flag
from violence_detection.storage.files import replace_file
from violence_detection.training.member import Member, validation_of
from violence_detection.training.predictions import (
    Predicted,
    predict_with_attention,
    violence_probabilities,
)
from violence_detection.training.pseudo_labels import PseudoLabels
from violence_detection.training.splits import Splits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The classifiers of a run, and what they were trained on."""

    splits: Splits
    members: list[Member]
    rounds: list[PseudoLabels]  # one for each teacher
    earlier_epochs: list[Row]  # finished by earlier commands

    @property
    def folds(self) -> int:
        """Into how many folds the clips were divided; 1: they were not."""
        return len(validation_of(self.members))

    def validation_clips(self, checked: CheckedClips) -> list[Clip]:
        """Return the clips of `validation_of` the members, in its order."""
        if self.folds == 1:
            return checked.of_split("val")
        known = checked.of_split("train") + checked.of_split("val")
        return [
            known[index]
            for member in self.members
            if member.kind == 0  # those of other kinds have the same folds
            for index in member.training.splits.held_out
        ]


@dataclass(frozen=True)
class CalibratedModel:
    """The best model of a run, and how its output becomes a prediction."""

    model: keras.Model  # with its attention; of several classifiers, their mean
    members: Sequence[keras.Model]  # of several classifiers; otherwise empty
    point: OperatingPoint
    promised: Figures  # calibrated and at the threshold, of the clips that these were chosen on
    raw: Predicted  # uncalibrated, of these clips
    fusion: Mapping[str, float]  # of several kinds of classifiers: their weights, and the bias


def calibrate_detector(members: Sequence[Member], settings: Settings) -> CalibratedModel:
    """Load the best model, fit its temperature and choose its threshold on the validation clips.

    With folds, these are all training and validation clips, each predicted by the classifier that
    was not trained on it.

    Args:
        members: the classifiers; the mean of several is written into the directory of the first.
        settings: batch size, seed, and the metric that the threshold is chosen for.

    Raises:
        RunError: the mean of the classifiers cannot be written.
    """
    models = [
        keras.models.load_model(member.directory / member.directory.best_model, safe_mode=True)
        for member in members
    ]
    directory, kinds = members[0].directory, kinds_of(settings)
    for member in members:
        for path in member.directory.damaged_checkpoints():
            log.warning("%s is missing or damaged (its checksum differs): do not use it", path)
    validation, seed = validation_of(members), settings.devices.seed
    labels = np.concatenate([clips.labels for clips in validation])
    groups = np.concatenate([clips.groups for clips in validation])
    by_kind = [
        _on_validation(members, models, number, kind.training.batch_size)
        for number, kind in enumerate(kinds)
    ]
    model, raw, fusion = models[0], by_kind[0], None
    if len(kinds) > 1:
        fusion = fit_fusion(labels, [each.probabilities for each in by_kind])
        raw = _fused(by_kind, fusion)
        _log_fusion(kinds, fusion, labels, groups, by_kind)
    if len(models) > 1:
        model = _fusion_of(members, models, fusion) if fusion else average_of(models)
        replace_file(directory / BEST_MODEL, model.save)
        directory.record_checksum(BEST_MODEL, epoch=0)
    model = with_attention(model)
    point = choose_operating_point(labels, raw.probabilities, settings.test.threshold_for, groups)
    calibrated = calibrate(raw.probabilities, point.temperature)
    promised = evaluate(labels, calibrated, point.threshold, groups.tolist(), seed)
    _log_choices(point, promised)
    alone = models if len(models) > 1 else ()
    return CalibratedModel(model, alone, point, promised, raw, _as_json(kinds, fusion))


def _on_validation(
    members: Sequence[Member], models: Sequence[keras.Model], kind: int, batch_size: int
) -> Predicted:
    """Return what the members of a kind predict of the validation clips.

    With folds, each clip is predicted by the classifier that has not seen it.
    """
    own = [number for number, member in enumerate(members) if member.kind == kind]
    clips = [members[number].training.splits.val for number in own]
    predicting = [models[number] for number in own]
    if not members[0].training.splits.fold and len(own) > 1:
        clips, predicting = clips[:1], [average_of(predicting)]
    return reduce(
        Predicted.followed_by,
        (
            predict_with_attention(with_attention(model), each, batch_size)
            for model, each in zip(predicting, clips, strict=True)
        ),
    )


def _fused(predicted: Sequence[Predicted], fusion: Fusion) -> Predicted:
    """Return what several kinds of classifiers say together of the same clips."""
    shares = np.array(fusion.weights) + 1e-9  # all may be 0
    return Predicted(
        fusion.apply([each.probabilities for each in predicted]).astype(np.float32),
        np.average([each.attention for each in predicted], axis=0, weights=shares),
    )


def _fusion_of(
    members: Sequence[Member], models: Sequence[keras.Model], fusion: Fusion
) -> keras.Model:
    """Return the ensemble of several kinds: of one kind, all members count the same."""
    numbers = Counter(member.kind for member in members)
    parts = [
        Part(model, member.part, fusion.weights[member.kind] / numbers[member.kind])
        for model, member in zip(models, members, strict=True)
        if member.part is not None
    ]
    return fusion_of(parts, fusion.bias, max(each.part.stop for each in parts))


def _as_json(kinds: Sequence[Settings], fusion: Fusion | None) -> dict[str, float]:
    if fusion is None:
        return {}
    titles = [kind_title(kind) for kind in kinds]
    return dict(zip(titles, fusion.weights, strict=True)) | {"bias": fusion.bias}


def _log_fusion(
    kinds: Sequence[Settings],
    fusion: Fusion,
    labels: np.ndarray,
    groups: np.ndarray,
    predicted: Sequence[Predicted],
) -> None:
    log.info("fusion: the sum of logits, weighted on the validation clips. There, alone:")
    for kind, weight, each in zip(kinds, fusion.weights, predicted, strict=True):
        figures = evaluate(labels, each.probabilities, HALF, groups.tolist(), seed=0)
        accuracy, auc = (figure_words(figures, name)[0] for name in ("accuracy", "roc_auc"))
        log.info(
            "  %s: weight %.2f, accuracy %s, ROC-AUC %s", kind_title(kind), weight, accuracy, auc
        )


def _log_choices(point: OperatingPoint, promised: Figures) -> None:
    log.info(
        "temperature %.2f, threshold %.3f for %s\nchosen on the validation, %s of %s: accuracy %s",
        *(point.temperature, point.threshold, point.chosen_for),
        *(count_of(promised["clips"], "clip"), count_of(promised["groups"], "source")),
        format_figure(promised, "accuracy"),
    )
    if point.is_at_bound:
        log.warning(
            "the temperature is at its bound: these clips cannot tell how certain it should be"
        )


def test_detector(
    detector: CalibratedModel,
    trained: Trained,
    checked: CheckedClips,
    directory: RunDirectory,
    settings: Settings,
) -> Tested:
    """Test on clips that the model has never seen; write `predictions.csv` and log the figures.

    With folds, `label_issues.csv` ranks the labels of the clips that validated.

    Args:
        detector: the model, its temperature and threshold.
        trained: the test clips are used. Where there are none, those that validated, each
            predicted by a classifier that was not trained on it.
        checked: the clips, in the order of their features.
        directory: of the run.
        settings: batch size, the seed of the bootstrap intervals, and whether the run can say
            something about violence.

    Raises:
        RunError: features cannot be read, or a file cannot be written.
    """
    split, features = trained.splits.tested
    batch_size, seed = settings.training.batch_size, settings.devices.seed
    threshold, temperature = detector.point.threshold, detector.point.temperature
    validated = trained.validation_clips(checked)
    members: list[np.ndarray] = []
    if split == "val":
        clips, raw = validated, detector.raw
    else:
        clips = checked.of_split(split)
        raw = predict_with_attention(detector.model, features, batch_size)
        members = [
            violence_probabilities(model, member.training.splits.test or features, batch_size)
            # A single classifier is not listed again.
            for model, member in zip(detector.members, trained.members, strict=False)
        ]
    labels = np.array([clip.label for clip in clips])
    groups = [clip.group_key for clip in clips]
    probabilities = calibrate(raw.probabilities, temperature)
    figures = evaluate(labels, probabilities, threshold, groups, seed)
    subgroups = {
        column: [clip.subgroups[number] for clip in clips]
        for number, column in enumerate(settings.test.subgroup)
    }
    promised = calibrate(detector.raw.probabilities, temperature)
    validation = _predictions("val", validated, promised)
    verdict = find_verdict(
        _predictions(split, clips, probabilities),
        figures,
        others=[] if split == "val" else [validation],
        best_epoch=_best_epoch(trained.members[0]),
        chosen_for=detector.point.chosen_for,
        void=_void(settings),
    )
    tested = Tested(
        split,
        figures,
        evaluate(labels, probabilities, HALF, groups, seed),
        evaluate(labels, raw.probabilities, HALF, groups, seed),
        [evaluate(labels, predicted, HALF, groups, seed) for predicted in members],
        verdict.sentences,
        subgroup_figures(labels, probabilities, threshold, groups, subgroups, seed),
    )
    write_predictions(
        *(clips, probabilities, threshold, raw.attention, directory / PREDICTIONS),
        windows=raw.windows,
    )
    if trained.folds > 1:
        write_label_issues(validated, promised, threshold, directory / LABEL_ISSUES)
    _log_figures(tested)
    if untrained := untrained_backbones(settings):
        name = backbone_title(",".join(untrained))
        log.warning("%s had random weights: these metrics do not apply to trained features", name)
    return tested


def _predictions(split: str, clips: Sequence[Clip], probabilities: np.ndarray) -> Predictions:
    return Predictions(
        split,
        [clip.name for clip in clips],
        [clip.group_key for clip in clips],
        np.array([clip.label for clip in clips]),
        probabilities,
    )


def _best_epoch(member: Member) -> EpochAccuracy:
    epoch, splits = member.directory.best_epoch(), member.training.splits
    row = member.directory.history[epoch - 1]
    counts = len(splits.train), len(splits.val)
    return EpochAccuracy(epoch, row["accuracy"], row["val_accuracy"], *counts)


def _void(settings: Settings) -> Void | None:
    """Return why the figures say nothing about violence, if so."""
    if untrained := untrained_backbones(settings):
        name, flag = backbone_title(",".join(untrained)), weights_flag(untrained[0])
        return Void(
            f"{name} had random weights, so these figures say nothing about violence",
            f"train on clips of your own with {flag} imagenet or a file of weights",
        )
    if settings.data.demo:
        return Void(
            "the clips were drawn, so these figures say nothing about violence",
            "train on clips of your own with --dataset-path DIR",
        )
    return None


def _log_figures(tested: Tested) -> None:
    if tested.split == "val":
        log.warning(
            "no test split: metrics are of the validation clips, each predicted\n"
            "without training on it, but epoch and threshold were chosen by them"
        )
    figures = tested.figures
    log.info(
        "%s split, %s, %s; 95 %% intervals\n%s",
        tested.split,
        count_of(figures["clips"], "clip"),
        count_of(figures["groups"], "group"),
        figures_table(figures, tested.at_half, tested.uncalibrated),
    )
    if tested.by_subgroup:
        log.info("%s", "\n".join(subgroup_lines(tested.by_subgroup)))
    for number, member in enumerate(tested.members, start=1):
        log.info(
            "  member %d alone, threshold 0.5: accuracy %s, ROC-AUC %s",
            *(number, figure_words(member, "accuracy")[0], figure_words(member, "roc_auc")[0]),
        )
