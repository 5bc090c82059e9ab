"""Label Studio's tasks: by hand, and as their reader takes them once they are submitted."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.clips.videos import draw_video
from tests.inference.reviewed import reviewed
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.tools.label_studio import label_studio
from violence_detection.inference.events import Event
from violence_detection.inference.label_studio_tasks import label_studio_tasks, labeling_config


def test_a_task_by_hand(tmp_path: Path) -> None:
    clips = [
        reviewed(tmp_path / "a ü.mp4", 0.75, known_label=0),
        reviewed(tmp_path / "b.mp4", 0.9, events=(Event(1.0, 1.9, 1.5, 0.9),)),
    ]
    first, second = json.loads("".join(label_studio_tasks(clips, "model 1")))
    root = str(tmp_path).lstrip("/")
    (prediction,) = first["predictions"]
    assert first["data"] == {
        "video": f"/data/local-files/?d={root}/a%20%C3%BC.mp4",
        "fps": 10.0,
        "clip": str(tmp_path / "a ü.mp4"),
        "probability": 0.75,
        "prediction": "violent",
        "label": "nonviolent",
        "contradicts_label": True,
    }
    assert (prediction["model_version"], prediction["score"]) == ("model 1", 0.5)
    (result,) = prediction["result"]
    assert result.pop("id")
    assert result == {
        "from_name": "violence",
        "to_name": "video",
        "type": "choices",
        "score": 0.75,
        "value": {"choices": ["violent"]},
    }
    assert "label" not in second["data"]
    (region,) = second["predictions"][0]["result"]
    assert region["value"] == {
        "ranges": [{"start": 11, "end": 20}],
        "timelinelabels": ["violent"],
    }


def test_the_configuration_has_the_controls_that_the_tasks_name(tmp_path: Path) -> None:
    whole = reviewed(tmp_path / "a.mp4", 0.7)
    video = reviewed(tmp_path / "b.mp4", 0.7, events=(Event(0, 1, 0.5, 0.7),))
    for clips, tags in (
        ([whole], {"Choices"}),
        ([video], {"TimelineLabels"}),
        ([whole, video], {"Choices", "TimelineLabels"}),
    ):
        root = ElementTree.fromstring(labeling_config(clips))
        controls = {child.get("name"): child for child in root if child.get("toName")}
        assert {child.tag for child in controls.values()} == tags
        for task in json.loads("".join(label_studio_tasks(clips, "m"))):
            for result in task["predictions"][0]["result"]:
                control = controls[result["from_name"]]
                assert control.tag.lower() == result["type"]
                assert control.get("toName") == result["to_name"] == root[0].get("name")
                (label,) = result["value"][control.tag.lower()]
                assert label in {child.get("value") for child in control}


def test_submitted_predictions_are_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = ("long.mp4", "calm.mp4", "fight.mp4")
    long, calm, fight = (draw_video(tmp_path / name, [True] * 3, random) for name in names)
    clips = [
        reviewed(long, 0.9, events=(Event(0.5, 1.9, 1.0, 0.9),)),
        reviewed(calm, 0.2, events=()),
        reviewed(fight, 0.8),
    ]
    tasks = json.loads("".join(label_studio_tasks(clips, "m")))
    for number, task in enumerate(tasks):
        task["id"] = number
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = label_studio(tmp_path / "export.json", tmp_path, None)
    assert found is not None
    assert found.are_events
    assert found.rows == [
        ManifestRow("long.mp4", 1, 0.5, 2.0, group="long.mp4"),
        ManifestRow("calm.mp4", 0),
        ManifestRow("fight.mp4", 1),
    ]
