"""What a clip costs in each stage: decoding, VGG19, clip list and index."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_scale import draw_cache, in_fresh_process, list_clips, look_up

WARM_UP = 1  # clips, before the clock starts


def measure_clips(paths: list[Path], layer: str) -> dict[str, Any]:
    """Return the machine, and seconds and CPU seconds of a clip: decoding, and VGG19.

    One core decodes one clip at a time and draws its streams. VGG19 gets one stream of a clip at a
    time, on all cores, in training's precision. Checksums are not included.

    Args:
        paths: of the clips; the first `WARM_UP` are not timed.
        layer: of VGG19.
    """
    from benchmarks.extraction import make_extractor
    from benchmarks.machine import describe_machine
    from violence_detection.clips.frames import read_frames
    from violence_detection.clips.streams import stream_images
    from violence_detection.features.network import on_replicas
    from violence_detection.models.vgg19_weights import feature_size
    from violence_detection.runtime.devices import choose_precision, find_devices, make_strategy
    from violence_detection.settings.schema import Settings

    settings = Settings().replace(dataset_path=Path())
    views: list[np.ndarray] = []

    def decode(path: Path) -> None:
        frames = read_frames(path, settings.features.frames)
        views[:] = [stream_images(frames, stream) for stream in settings.features.streams]

    decoding = _timed(decode, paths)
    devices = find_devices(None)
    precision = choose_precision(settings.devices.mixed_precision, devices[0].device_type)
    network = on_replicas(
        make_strategy(devices[:1], 1), partial(make_extractor, layer, precision.computation)
    )

    def extract(_: Path) -> None:
        for view in views:
            network(view[np.newaxis])

    return {
        "machine": describe_machine(devices),
        "clips": len(paths) - WARM_UP,
        "device": devices[0].device_type,
        "dtype": precision.computation,
        "layer": layer,
        "streams": list(settings.features.streams),
        "frames": settings.features.frames,
        "clip_bytes": float(np.mean([path.stat().st_size for path in paths])),
        "feature_bytes": len(settings.features.streams)
        * settings.features.frames
        * feature_size(layer)
        * 2,
        "decoding": decoding,
        "vgg19": _timed(extract, paths),
    }


def _timed(function: Callable[[Path], None], paths: list[Path]) -> dict[str, float]:
    """Return the seconds of a call; the first `WARM_UP` calls are not timed."""
    for path in paths[:WARM_UP]:
        function(path)
    started, used = time.perf_counter(), time.process_time()
    for path in paths[WARM_UP:]:
        function(path)
    count = len(paths) - WARM_UP
    return {
        "seconds": (time.perf_counter() - started) / count,
        "cpu_seconds": (time.process_time() - used) / count,
    }


def measure_lists(entries: int) -> dict[str, Any]:
    """Return seconds and bytes of memory per clip of the clip list, and of finding all rows.

    The memory is the difference between `entries` clips and a fifth of that, so that what a process
    needs in any case cancels out.
    """
    report: dict[str, Any] = {"clips": entries}
    for name, measure in {"clip_list": list_clips, "index": look_up}.items():
        peaks, seconds = [], []
        for count in (entries // 5, entries):
            with tempfile.TemporaryDirectory() as folder:
                if measure is look_up:
                    draw_cache(Path(folder), count, 1)
                figures = in_fresh_process(measure, Path(folder), count)
            peaks.append(1e6 * figures["peak_megabytes"])
            seconds.append(figures["seconds"])
        report[name] = {
            "seconds": seconds[1] / entries,
            "bytes": max(0.0, (peaks[1] - peaks[0]) / (entries - entries // 5)),
        }
    return report
