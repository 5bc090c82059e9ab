"""How well a machine keeps up with a live source: a file of 25 frames/s, played in real time.

    python -m benchmarks.live --checkpoint-dir ./checkpoints --json FILE

There are two detectors: one of the default settings with random weights, which is as slow as a
trained one, and the given one. Without a file, clips of the demo are drawn, 640 x 480.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, print_report
from benchmarks.timing import in_own_process
from violence_detection.runtime.tensorflow_log import quiet_tensorflow

FRAMES_PER_SECOND = 25
WIDTH, HEIGHT = 640, 480
SECONDS = 120  # of the file that is drawn
SILENCE = 60.0  # seconds


def main() -> None:
    """Measure, print, and write the file that is asked for."""
    quiet_tensorflow()
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint-dir", type=Path, metavar="DIR", help="of a finished training")
    parser.add_argument("--vgg19-weights", metavar="NAME|FILE", help="as for predict.py")
    parser.add_argument("--source", type=Path, metavar="FILE", help="a video (default: drawn)")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help=f"of the drawn video (default: {SECONDS})"
    )
    parser.add_argument("--window", type=float, default=2.0, help="as for predict.py")
    parser.add_argument("--stride", type=float, default=1.0, help="as for predict.py")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = flags.source or draw_video(folder / "video.mp4", flags.seconds)
        windows = flags.window, flags.stride
        report = in_own_process(watch_untrained, folder / "untrained", video, *windows)
        if flags.checkpoint_dir:
            trained = flags.checkpoint_dir, flags.vgg19_weights
            given = in_own_process(watch, *trained, video, *windows)
            report["detectors"] |= given["detectors"]
    print_report(report, flags.json)


def draw_video(path: Path, seconds: int) -> Path:
    """Draw clips of the demo one after the other, alternating between the classes."""
    import cv2
    import numpy as np

    from violence_detection.clips.demo import FRAMES_PER_SECOND as DRAWN
    from violence_detection.clips.demo import SECONDS as CLIP_SECONDS
    from violence_detection.clips.demo import draw_clip

    random = np.random.default_rng(0)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), codec, FRAMES_PER_SECOND, (WIDTH, HEIGHT))
    clip = path.with_name("clip.mp4")
    for number in range(-(-seconds // CLIP_SECONDS)):
        draw_clip(clip, number % 2 == 1, random)
        capture = cv2.VideoCapture(str(clip))
        images = [capture.read()[1] for _ in range(DRAWN * CLIP_SECONDS)]
        for frame in range(FRAMES_PER_SECOND * CLIP_SECONDS):
            writer.write(cv2.resize(images[frame * DRAWN // FRAMES_PER_SECOND], (WIDTH, HEIGHT)))
    writer.release()
    return path


def watch_untrained(folder: Path, video: Path, window: float, stride: float) -> dict[str, Any]:
    """Return the figures of the default settings, with random weights."""
    from violence_detection.features.recipe import stream_recipes
    from violence_detection.models.classifier import classifier
    from violence_detection.runs.files import BEST_MODEL, CONFIG, DETECTOR
    from violence_detection.runtime.devices import choose_precision, find_devices
    from violence_detection.settings.schema import Settings
    from violence_detection.storage.files import file_checksum, write_json

    settings = Settings().replace(dataset_path=folder, vgg19_weights="random")
    recipes = stream_recipes(settings)
    values = sum(recipe.features for recipe in recipes)
    folder.mkdir()
    classifier(settings.features.frames, values, dropout=0.5, l2=0.0).save(folder / BEST_MODEL)
    computation = choose_precision(True, find_devices(None)[0].device_type).computation
    write_json(folder / CONFIG, {"settings": {"vgg19_weights": "random"}, "precision": computation})
    write_json(
        folder / DETECTOR,
        {
            "model": BEST_MODEL,
            "model_checksum": file_checksum(folder / BEST_MODEL).hex(),
            "frames": settings.features.frames,
            "features": [dataclasses.asdict(recipe) for recipe in recipes],
            "untrained_vgg19": True,
            "temperature": 1.0,
            "threshold": 0.5,
            "chosen_for": "nothing",
        },
    )
    return watch(folder, None, video, window, stride)


def watch(
    checkpoint_dir: Path, vgg19_weights: str | None, video: Path, window: float, stride: float
) -> dict[str, Any]:
    """Return how well the machine keeps up with a file that is played in real time."""
    from benchmarks.machine import describe_machine
    from violence_detection.clips.video import open_video
    from violence_detection.inference.detector import load_detector
    from violence_detection.inference.live import LiveMonitor
    from violence_detection.inference.live_source import Source, SourceReader
    from violence_detection.inference.windows import window_sampling

    def print_line(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    detector = load_detector(checkpoint_dir, vgg19_weights, replicas=1)
    sampling = window_sampling(detector, window, stride)
    watched = LiveMonitor(detector, sampling, lambda notice: None, print_line)
    with SourceReader(Source(str(video), "file"), sampling, SILENCE) as reader:
        figures = watched.run(reader)
    layer = detector.recipes[0].layer
    with open_video(video) as opened:
        rate = opened.info.frames_per_second
    return {
        "machine": describe_machine(list(detector.devices)),
        "frames_per_second": rate,
        "window": window,
        "stride": stride,
        "detectors": {
            f"{layer}, {', '.join(detector.streams)}, {detector.computation}": {
                "seconds": figures.seconds,
                "frames": figures.frames,
                "frames_computed": figures.samples,
                "windows_judged": figures.windows,
                "windows_skipped": figures.skipped,
                "events": figures.events,
                "mean_lag": figures.total_delay / figures.windows if figures.windows else None,
                "largest_lag": figures.max_delay if figures.windows else None,
                "within_a_window": bool(figures.windows) and figures.max_delay <= window,
                "windows_per_second": {
                    "that_come": figures.windows_due_per_second,
                    "that_can_be_judged": figures.windows_possible_per_second,
                },
                # The factor by which the file could be played faster without skipping a window.
                "speed": figures.speed,
            }
        },
    }


if __name__ == "__main__":
    main()
