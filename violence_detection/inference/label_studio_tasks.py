"""Predictions as tasks of Label Studio with pre-annotations, and the labeling configuration.

The format: its guide "Import pre-annotated data" and its tags Video, Choices and TimelineLabels.
A timeline counts frames from 1, a frame being the time in seconds times the `frameRate` of the
Video tag, which is the task's `fps` here.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from violence_detection.inference.reviewed_clips import ReviewedClip
from violence_detection.settings.constants import CLASS_NAMES

VIDEO, CHOICE, TIMELINE = "video", "violence", "events"  # the tags' names
COLORS = {"violent": "#d1495b", "nonviolent": "#2a9d8f"}


def labeling_config(clips: Sequence[ReviewedClip]) -> str:
    """Return the XML for a project of these clips: choices for clips, a timeline for videos."""
    has_clips = any(clip.events is None for clip in clips)
    has_videos = any(clip.events is not None for clip in clips)
    lines = ["<View>", f'  <Video name="{VIDEO}" value="$video" frameRate="$fps"/>']
    if has_clips or not has_videos:
        lines += [
            f'  <Choices name="{CHOICE}" toName="{VIDEO}" choice="single" showInline="true">',
            *(f'    <Choice value="{name}"/>' for name in reversed(CLASS_NAMES)),
            "  </Choices>",
        ]
    if has_videos:
        lines += [
            f'  <TimelineLabels name="{TIMELINE}" toName="{VIDEO}">',
            f'    <Label value="{CLASS_NAMES[1]}" background="{COLORS[CLASS_NAMES[1]]}"/>',
            "  </TimelineLabels>",
        ]
    return "\n".join([*lines, "</View>", ""])


def label_studio_tasks(clips: Sequence[ReviewedClip], model: str) -> Iterator[str]:
    """Yield the JSON of tasks, one per line.

    Args:
        clips: in the order of review.
        model: its name, the predictions' `model_version`.
    """
    yield "["
    for number, clip in enumerate(clips):
        yield (",\n" if number else "\n") + json.dumps(_task(clip, model))
    yield "\n]\n"


def _task(clip: ReviewedClip, model: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "video": video_url(clip),
        "fps": round(clip.frame_rate, 6),
        "clip": str(clip.path),
        "probability": round(clip.probability, 6),
        "prediction": CLASS_NAMES[clip.violent],
    }
    if clip.known_label is not None:
        data["label"] = CLASS_NAMES[clip.known_label]
        data["contradicts_label"] = clip.contradicts_label
    prediction = {
        "model_version": model,
        "score": round(clip.certainty, 6),
        "result": [_choice(clip)] if clip.events is None else list(_regions(clip)),
    }
    return {"data": data, "predictions": [prediction]}


def _choice(clip: ReviewedClip) -> dict[str, Any]:
    return {
        "id": clip.identifier(CHOICE)[:10],
        "from_name": CHOICE,
        "to_name": VIDEO,
        "type": "choices",
        "score": round(clip.probability if clip.violent else 1 - clip.probability, 6),
        "value": {"choices": [CLASS_NAMES[clip.violent]]},
    }


def _regions(clip: ReviewedClip) -> Iterator[dict[str, Any]]:
    for number, event in enumerate(clip.events or ()):
        first, last = clip.frames_of(event)
        yield {
            "id": clip.identifier(TIMELINE, number)[:10],
            "from_name": TIMELINE,
            "to_name": VIDEO,
            "type": "timelinelabels",
            "score": round(event.probability, 6),
            "value": {
                "ranges": [{"start": first, "end": last}],
                "timelinelabels": [CLASS_NAMES[1]],
            },
        }


def video_url(clip: ReviewedClip) -> str:
    """Return what Label Studio plays: a file of a local storage below "/", or the clip's URL."""
    if not isinstance(clip.path, Path):
        return clip.location
    path = Path(clip.location).as_posix().lstrip("/")
    return f"/data/local-files/?d={quote(os.fsencode(path))}"
