"""Predictions as a data set on disk that FiftyOne reads as `FiftyOneDataset`.

The format: what `dataset.export` writes for that type, and its reader
(fiftyone/utils/data/importers.py): `metadata.json` describes the data set and its fields,
`samples.json` has the samples. Videos stay where they are. Support counts frames from 1.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from violence_detection.inference.reviewed_clips import ReviewedClip
from violence_detection.settings.constants import CLASS_NAMES

VERSION = "1.0.0"  # of FiftyOne that reads it; a later one migrates it
METADATA, SAMPLES = "metadata.json", "samples.json"
FIELDS, LABELS = "fiftyone.core.fields", "fiftyone.core.labels"
CONTRADICTION = "contradiction"  # the tag of clips whose known label the prediction contradicts
INFO = "predicted_by"  # the key in the data set's info by which its folder is known


def fiftyone_metadata(clips: Sequence[ReviewedClip], model: str, threshold: float) -> str:
    """Return the content of `metadata.json`.

    Args:
        clips: that the data set has.
        model: its name.
        threshold: of the detector.
    """
    fields = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", subfield=f"{FIELDS}.StringField"),
        _embedded("metadata", "fiftyone.core.metadata.VideoMetadata"),
        _field("_media_type", "StringField"),
        _field("_rand", "FloatField"),
        _field("_dataset_id", "ObjectIdField"),
        _field("created_at", "DateTimeField", read_only=True),
        _field("last_modified_at", "DateTimeField", read_only=True),
        _embedded("prediction", f"{LABELS}.Classification"),
        _field("probability", "FloatField"),
        _field("certainty", "FloatField"),
    ]
    if any(clip.events is not None for clip in clips):
        fields.append(_embedded("events", f"{LABELS}.TemporalDetections"))
    if any(clip.known_label is not None for clip in clips):
        fields.append(_embedded("ground_truth", f"{LABELS}.Classification"))
    metadata = {
        "version": VERSION,
        "media_type": "video",
        "info": {INFO: model, "threshold": threshold},
        "default_classes": list(CLASS_NAMES),
        "sample_fields": fields,
        "frame_fields": [],
    }
    return json.dumps(metadata, indent=1) + "\n"


def _field(name: str, kind: str, **more: object) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": f"{FIELDS}.{kind}",
        "embedded_doc_type": None,
        "subfield": None,
        "fields": [],
        "db_field": name,
        **more,
    }


def _embedded(name: str, kind: str) -> dict[str, Any]:
    return _field(name, "EmbeddedDocumentField", embedded_doc_type=kind)


def fiftyone_samples(clips: Sequence[ReviewedClip]) -> Iterator[str]:
    """Yield the content of `samples.json`, a sample per line, in the order of the clips."""
    places = random.Random(0)  # FiftyOne takes random samples by `_rand`
    yield '{"samples": ['
    for number, clip in enumerate(clips):
        yield (",\n" if number else "\n") + json.dumps(_sample(clip, places.random()))
    yield "\n]}\n"


def _sample(clip: ReviewedClip, place: float) -> dict[str, Any]:
    metadata = {
        "_cls": "VideoMetadata",
        "frame_rate": clip.frame_rate,
        "total_frame_count": clip.frames,
        "duration": clip.seconds,
    }
    confidence = clip.probability if clip.violent else 1 - clip.probability
    sample: dict[str, Any] = {
        "_id": _object_id(clip),
        "filepath": clip.location,
        "tags": [CONTRADICTION] if clip.contradicts_label else [],
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        "_media_type": "video",
        "_rand": place,
        "prediction": _label(clip, "prediction", CLASS_NAMES[clip.violent], confidence=confidence),
        "probability": clip.probability,
        "certainty": clip.certainty,
    }
    if clip.events is not None:
        detections = [
            _label(
                clip,
                f"event {number}",
                CLASS_NAMES[1],
                "TemporalDetection",
                support=list(clip.frames_of(event)),
                confidence=event.probability,
            )
            for number, event in enumerate(clip.events)
        ]
        sample["events"] = {"_cls": "TemporalDetections", "detections": detections}
    if clip.known_label is not None:
        sample["ground_truth"] = _label(clip, "ground_truth", CLASS_NAMES[clip.known_label])
    return sample


def _label(
    clip: ReviewedClip, part: str, label: str, kind: str = "Classification", **more: object
) -> dict[str, Any]:
    return {"_id": _object_id(clip, part), "_cls": kind, "tags": [], "label": label, **more}


def _object_id(clip: ReviewedClip, *parts: object) -> dict[str, str]:
    return {"$oid": clip.identifier(*parts)}
