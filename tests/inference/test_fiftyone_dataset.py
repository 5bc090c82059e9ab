"""FiftyOne's data set: by hand, and as its reader takes it."""

import json
from pathlib import Path

import numpy as np

from tests.clips.videos import draw_video
from tests.inference.reviewed import reviewed
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.fiftyone import fiftyone
from violence_detection.inference.events import Event
from violence_detection.inference.fiftyone_dataset import fiftyone_metadata, fiftyone_samples


def test_a_sample_by_hand(tmp_path: Path) -> None:
    events = (Event(1.0, 1.9, 1.5, 0.9),)
    clip = reviewed(tmp_path / "a.mp4", 0.75, events=events, known_label=0)
    (sample,) = json.loads("".join(fiftyone_samples([clip])))["samples"]
    identifiers = [
        part.pop("_id")["$oid"]
        for part in (
            sample,
            sample["prediction"],
            sample["ground_truth"],
            *sample["events"]["detections"],
        )
    ]
    assert len(set(identifiers)) == 4
    assert all(len(each) == 24 and int(each, 16) for each in identifiers)
    assert 0 <= sample.pop("_rand") < 1
    assert sample == {
        "filepath": str(tmp_path / "a.mp4"),
        "tags": ["contradiction"],
        "metadata": {"_cls": "VideoMetadata", "frame_rate": 10.0},
        "_media_type": "video",
        "prediction": {
            "_cls": "Classification",
            "tags": [],
            "label": "violent",
            "confidence": 0.75,
        },
        "probability": 0.75,
        "certainty": 0.5,
        "events": {
            "_cls": "TemporalDetections",
            "detections": [
                {
                    "_cls": "TemporalDetection",
                    "tags": [],
                    "label": "violent",
                    "support": [11, 20],
                    "confidence": 0.9,
                }
            ],
        },
        "ground_truth": {"_cls": "Classification", "tags": [], "label": "nonviolent"},
    }


def test_metadata_describe_the_fields_of_the_samples(tmp_path: Path) -> None:
    clips = [
        reviewed(tmp_path / "a.mp4", 0.75, known_label=0),
        reviewed(tmp_path / "b.mp4", 0.2, events=()),
    ]
    for some in (clips, clips[:1], clips[1:]):
        metadata = json.loads(fiftyone_metadata(some, "model 1", 0.5))
        fields = {field["db_field"] for field in metadata["sample_fields"]}
        samples = json.loads("".join(fiftyone_samples(some)))["samples"]
        assert {key for sample in samples for key in sample} <= fields
        # What FiftyOne adds, and nothing that no sample has.
        assert fields - {key for sample in samples for key in sample} == {
            *("_dataset_id", "created_at", "last_modified_at")
        }
        assert metadata["version"] and metadata["media_type"] == "video"


def test_predictions_are_read_back_if_nobody_has_corrected_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    long = draw_video(tmp_path / "long.mp4", [True] * 3, random)
    calm = draw_video(tmp_path / "calm.mp4", [False] * 3, random)
    clips = [
        reviewed(long, 0.9, events=(Event(0.5, 1.9, 1.0, 0.9),)),
        reviewed(calm, 0.2, events=()),
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "metadata.json").write_text(fiftyone_metadata(clips, "m", 0.5))
    (tmp_path / "set" / "samples.json").write_text("".join(fiftyone_samples(clips)))
    found = fiftyone(tmp_path / "set", tmp_path, None)
    assert found is not None
    assert found.are_events
    assert found.rows == [
        ManifestRow("long.mp4", 1, 0.5, 2.0, group="long.mp4"),
        ManifestRow("calm.mp4", 0),
    ]
