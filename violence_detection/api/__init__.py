"""The project from Python: train a detector, load one, predict.

    from violence_detection import Detector, Settings, train

    run = train(Settings(dataset_path="clips", epochs=20))
    detector = Detector.load(run.folder)
    prediction = detector.predict("clip.mp4")

The command lines use the same functions, so that both give the same predictions. What is returned
are flat dataclasses: a list of them makes a pandas `DataFrame`.
"""

from violence_detection.api.detector import Detector
from violence_detection.api.predictions import Event, Prediction, Timeline, Window
from violence_detection.api.training import Settings, TrainedRun, train

__all__ = [
    "Detector",
    "Event",
    "Prediction",
    "Settings",
    "Timeline",
    "TrainedRun",
    "Window",
    "train",
]
