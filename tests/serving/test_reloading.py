import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.serving.http import LIMITS, form_of, problem_detail, ready
from violence_detection.errors import RunError, UserError
from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.serving.access import Access
from violence_detection.serving.reloading import Reloader
from violence_detection.serving.service import Service

BEARING = {"Authorization": "Bearer token"}


def _raise(error: Exception) -> Detector:
    raise error


def _without_weights(detector: Detector) -> Detector:
    return dataclasses.replace(detector, temperature=float("nan"))


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda now: dataclasses.replace(now, threshold=0.75), None),
        (lambda now: _raise(UserError("best_model.keras is missing")), "is missing"),
        (lambda now: dataclasses.replace(now, recipes=now.recipes[:1]), "unlike"),
        (_without_weights, "too large"),
    ],
)
def test_detector_is_replaced_while_serving_unless_the_new_one_is_broken(
    detector: Detector,
    tmp_path: Path,
    clip: bytes,
    load: Callable[[Detector], Detector],
    reason: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(detector, tmp_path, LIMITS)
    (tmp_path / "clip.mp4").write_bytes(clip)

    async def reload() -> PredictedClip:
        async with service.running():
            reloader = Reloader(service, lambda: load(detector))
            if reason is None:
                await reloader.reload()
            else:
                with pytest.raises((UserError, RunError), match=reason):
                    await reloader.reload()
            return await service.predict_clip(tmp_path / "clip.mp4", with_pictures=False)

    with caplog.at_level(logging.INFO, "violence_detection"):
        predicted = asyncio.run(reload())
    assert predicted.prediction.probability is not None
    assert service.detector.threshold == (0.75 if reason is None else detector.threshold)
    assert (reason or "ready:") in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def reloadable(
    detector: Detector, uploads: Path, new: Detector, trial: Sequence[Path], token: str | None
) -> Service:
    service = Service(detector, uploads, LIMITS, Access(token))
    service.reloader = Reloader(service, lambda: new, trial)
    return service


def test_new_model_is_tried_on_stored_clips_before_it_answers(
    detector: Detector, uploads: Path, drawn_clips: Path, clip: bytes
) -> None:
    trial = sorted((drawn_clips / "test").glob("*/*.mp4"))
    always = dataclasses.replace(detector, threshold=0.0)
    with ready(reloadable(detector, uploads, always, trial, "token")) as client:
        problem_detail(client.post("/reload"), 401)
        found = [clip.violent for clip in detector.predict_clips(trial)]
        answer = client.post("/reload", headers=BEARING).json()
        assert answer["trial_clips"] == len(trial)
        assert answer["predicted_otherwise"] == found.count(False)
        assert answer["model_sha256"] == client.get("/healthz").json()["model_sha256"]
        assert client.post("/predict", headers=BEARING, **form_of(clip)).json()["violent"]


def test_model_that_cannot_predict_a_stored_clip_is_not_used(
    detector: Detector, uploads: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    other = dataclasses.replace(detector, threshold=0.0)
    with ready(reloadable(detector, uploads, other, [broken], "token")) as client:
        problem_detail(client.post("/reload", headers=BEARING), 409)
        assert client.get("/readyz").json()["threshold"] == detector.threshold


def test_server_without_a_token_reloads_by_a_signal_alone(
    detector: Detector, uploads: Path
) -> None:
    with ready(reloadable(detector, uploads, detector, [], None)) as client:
        assert "SIGHUP" in problem_detail(client.post("/reload"), 403)
