import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.demo import draw_clip
from violence_detection.clips.frames import read_frames
from violence_detection.clips.streams import stream_images
from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.inference.detector import (
    CLASSIFIER_BATCH,
    Detector,
    Prediction,
    load_detector,
)
from violence_detection.storage.files import file_checksum, read_json, write_json

TIMEOUT = 60.0  # seconds


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may damage."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture(scope="session")
def tested_clips(trained: Path) -> list[dict[str, str]]:
    with (trained / "run" / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_as_in_test(found: Sequence[Prediction], expected: Sequence[dict[str, str]]) -> None:
    for prediction, row in zip(found, expected, strict=True):
        assert prediction.error is None
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=2e-6)
        assert prediction.violent == (row["verdict"] == "violent")
        attention = [float(row[f"attention_{number}"]) for number in range(1, 5)]
        np.testing.assert_allclose(prediction.attention, attention, atol=1e-4)


def test_clips_are_predicted_as_in_the_runs_own_test(
    detector: Detector, tested_clips: list[dict[str, str]], drawn_clips: Path
) -> None:
    paths = [drawn_clips / row["clip"] for row in tested_clips]
    found = list(detector.predict_clips(paths, TIMEOUT))
    assert [prediction.path for prediction in found] == paths
    assert_as_in_test(found, tested_clips)
    assert len({prediction.probability for prediction in found}) > 4  # not all the same


def test_images_and_cached_features_give_the_same_predictions(
    detector: Detector, trained: Path, tested_clips: list[dict[str, str]], drawn_clips: Path
) -> None:
    paths = [drawn_clips / row["clip"] for row in tested_clips]
    images = np.stack(
        [
            [
                stream_images(read_frames(path, 6), s)[detector.frame_indices]
                for s in detector.streams
            ]
            for path in paths
        ]
    )
    features = detector.clip_features(images)
    with CacheFolder(trained / "cache") as folder:
        caches = [FeatureCache(folder, recipe) for recipe in detector.recipes]
        rows = [[cache.row_of(file_checksum(path)) for path in paths] for cache in caches]
        cached = [cache.rows().read(of_cache) for cache, of_cache in zip(caches, rows, strict=True)]
    expected = np.concatenate(cached, axis=2)[:, detector.frame_indices]
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-3)
    output, again = detector.predict_features(expected), detector.predict_images(images)
    np.testing.assert_allclose(output.probabilities, again.probabilities, atol=1e-5)
    np.testing.assert_allclose(output.attention.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, CLASSIFIER_BATCH, CLASSIFIER_BATCH + 1])
def test_prediction_does_not_depend_on_the_batch(detector: Detector, count: int) -> None:
    random = np.random.default_rng(0)
    features = random.random((count, 4, detector.features_per_frame)).astype(np.float16)
    output = detector.predict_features(features)
    assert output.probabilities.shape == (count,)
    assert output.attention.shape == (count, 4)
    alone = [detector.predict_features(features[n : n + 1]).probabilities[0] for n in range(count)]
    np.testing.assert_array_equal(output.probabilities, alone)


def test_features_that_are_not_finite_have_no_probability(detector: Detector) -> None:
    features = np.zeros((3, 4, detector.features_per_frame), np.float16)
    features[1, 2, 3] = np.inf
    probabilities = detector.predict_features(features).probabilities
    np.testing.assert_array_equal(np.isnan(probabilities), [False, True, False])
    assert probabilities[0] == probabilities[2]


def test_bad_clips_keep_their_place_and_have_a_reason(
    detector: Detector, tested_clips: list[dict[str, str]], drawn_clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_bytes(b"hello" * 999)
    good = [drawn_clips / row["clip"] for row in tested_clips[:5]]
    gone, empty, text = (tmp_path / f"{name}.mp4" for name in ("gone", "empty", "text"))
    paths = [empty, good[0], gone, *good[1:4], text, good[4], empty]
    found = list(detector.predict_clips(iter(paths), TIMEOUT))
    assert [prediction.path for prediction in found] == paths
    reasons = {prediction.path: prediction.error for prediction in found if prediction.error}
    assert reasons == {
        empty: "the file is empty",
        gone: "No such file or directory",
        text: "not a video that FFmpeg can open",
    }
    assert_as_in_test(
        [prediction for prediction in found if not prediction.error], tested_clips[:5]
    )
    assert all(prediction.probability is None for prediction in found if prediction.error)


def test_frames_have_their_times(detector: Detector, tmp_path: Path) -> None:
    draw_clip(tmp_path / "clip.mp4", True, np.random.default_rng(0))  # 24 frames, 12 a second
    (prediction,) = detector.predict_clips([tmp_path / "clip.mp4"], TIMEOUT)
    # Of six evenly spaced frames, 0 to 23, the classifier is given four.
    positions = np.linspace(0, 23, 6).round()[detector.frame_indices]
    np.testing.assert_allclose(prediction.times, positions / 12, atol=1e-6)


def test_clips_are_taken_as_they_are_needed(
    detector: Detector, tested_clips: list[dict[str, str]], drawn_clips: Path
) -> None:
    taken: list[Path] = []

    def endless():
        while True:
            taken.append(drawn_clips / tested_clips[len(taken) % 8]["clip"])
            yield taken[-1]

    found = detector.predict_clips(endless(), TIMEOUT)
    first = [next(found) for _ in range(8)]
    found.close()
    assert_as_in_test(first, tested_clips[:8])
    assert len(taken) <= 8 + 3 * detector.clips_per_batch


def test_default_precision_is_that_of_the_run(detector: Detector, trained: Path) -> None:
    precision = json.loads((trained / "run" / "training_config.json").read_text())["precision"]
    assert detector.computation == precision
    assert load_detector(trained / "run", mixed_precision=False).computation == "float32"


def change(run: Path, file: str, **values: object) -> None:
    write_json(run / file, read_json(run / file) | values)


def without_detector(run: Path) -> None:
    (run / "detector.json").unlink()


def no_run(run: Path) -> None:
    for path in run.glob("*.json"):
        path.unlink()


def without_model(run: Path) -> None:
    (run / "best_model.keras").unlink()


def other_model(run: Path) -> None:
    shutil.copy(run / "training_history.csv", run / "best_model.keras")


def gone_weights(run: Path) -> None:
    settings = read_json(run / "training_config.json")["settings"]
    change(run, "training_config.json", settings=settings | {"vgg19_weights": "/gone/vgg19.h5"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "run: no such folder"),
        (without_detector, r"the run has not finished"),
        (no_run, r"not a run's folder"),
        (without_model, r"best_model\.keras is missing"),
        (other_model, r"best_model\.keras is not the model that was tested"),
        (gone_weights, r"--vgg19-weights /gone/vgg19\.h5: no such file"),
    ],
)
def test_folder_without_a_finished_run_is_refused(
    run_copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(run_copy)
    with pytest.raises(UserError, match=message):
        load_detector(run_copy)


def test_other_vgg19_weights_than_in_training_are_refused(trained: Path) -> None:
    with pytest.raises(UserError, match=r"imagenet is md5-\w+, but .* trained with random-0"):
        load_detector(trained / "run", "imagenet")
