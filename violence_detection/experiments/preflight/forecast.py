"""What a run will take here: rates of its stages, measured, and what follows from them."""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from violence_detection.clips.clip import Clip
from violence_detection.clips.decode_ahead import decode_ahead
from violence_detection.clips.decoders import DecoderProcesses, View, decoder_count
from violence_detection.clips.video import UnreadableClip
from violence_detection.features.cache.feature_cache import THUMBNAIL, Recipe
from violence_detection.features.network import make_network
from violence_detection.features.recipe import weights_of
from violence_detection.features.videos import Videos
from violence_detection.models.summary import BYTES, training_memory
from violence_detection.models.vgg19 import CLIPS_PER_REPLICA
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.settings.constants import FRAME_SIZE
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures, sample_features, training_batches
from violence_detection.training.loop import STANDARDIZE_ON, make_order
from violence_detection.training.trainer import Trainer, make_trainer

SECONDS = 2.0  # that a network is timed for
STEPS, EPOCHS = 8, 3  # of the training that is timed; its first epoch compiles
USABLE = 0.9  # of a GPU's memory: the rest is the framework's and lost between blocks
Decoded = np.ndarray | UnreadableClip | OSError


@dataclass(frozen=True)
class Rates:
    """Clips per second of each stage."""

    decoding: float
    decoding_and_streams: float
    network: float
    training: float
    on_gpu: bool

    @property
    def streams(self) -> float:
        """Of the streams alone, without decoding; infinite where there is next to nothing to do."""
        seconds = 1 / self.decoding_and_streams - 1 / self.decoding
        return 1 / seconds if seconds > 0 else math.inf

    @property
    def extraction(self) -> float:
        """Of decoding, streams and network together: side by side with a GPU, else in turns."""
        if self.on_gpu:
            return min(self.decoding_and_streams, self.network)
        return 1 / (1 / self.decoding_and_streams + 1 / self.network)

    @property
    def bottleneck(self) -> str:
        """What extraction waits for."""
        if self.network < self.decoding_and_streams:
            return "VGG19"
        return "streams" if self.streams < self.decoding else "decoding"


def decoding_rate(clips: Sequence[Clip], frames: int, views: Sequence[View], limit: float) -> float:
    """Return the clips per second that the decoders give, when all have started.

    Args:
        clips: repeated.
        frames: of a clip.
        views: of a clip, that are computed beside.
        limit: seconds that a clip may take.
    """
    processes = decoder_count()
    count = processes + max(len(clips), 4 * processes)
    chosen = list(itertools.islice(itertools.cycle(clips), count))
    began = 0.0
    for number, found in enumerate(decoded(chosen, frames, views, limit), start=1):
        if isinstance(found, Exception):
            raise found
        if number == processes:
            began = time.perf_counter()
    return (count - processes) / (time.perf_counter() - began)


def decoded(
    clips: Sequence[Clip], frames: int, views: Sequence[View], limit: float
) -> Iterator[Decoded]:
    """Yield each clip's `(views, frames, 224, 224, 3)` uint8, or its error, decoded in parallel."""
    videos = Videos(clips)

    def decode(decoders: DecoderProcesses, clip: Clip) -> Decoded:
        try:
            with videos.opened(clip) as video:
                return decoders.read_clip(video.path, views, clip.segment)[0]
        except (UnreadableClip, OSError) as error:
            return error

    ahead = 2 * decoder_count()
    yield from decode_ahead(clips, decode, frames, len(views), ahead, limit, StageClock())


def network_rate(recipes: Sequence[Recipe], settings: Settings, machine: Machine) -> float:
    """Return the clips per second of all networks on all streams, on all devices together."""
    seconds = 0.0  # of a clip
    clips = CLIPS_PER_REPLICA * len(machine.devices)
    by_network: dict[tuple[str, str, str], list[Recipe]] = {}
    for recipe in recipes:
        if recipe.layer != THUMBNAIL:
            by_network.setdefault(recipe.network, []).append(recipe)
    for own in by_network.values():
        images = np.zeros((clips, own[0].frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        network = make_network(
            machine.own_strategy(),
            *(own[0], weights_of(own[0], settings), machine.precision.computation),
        )
        seconds += len(own) * _seconds_of(partial(network, images)) / clips
    return 1 / seconds if seconds else math.inf


def _seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of a call, once it is compiled."""
    work()
    began, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - began < SECONDS:
        work()
        calls += 1
    return (time.perf_counter() - began) / calls


@dataclass(frozen=True)
class TrainingCost:
    """What training takes."""

    rate: float  # clips per second
    estimated: float  # bytes on one device at this batch size
    of_clip: float  # bytes of these that grow with each clip of a replica
    peak: float | None  # bytes, measured on a GPU

    def largest_batch(self, memory: float, batch: int, replicas: int) -> int:
        """Return the largest batch, over all replicas, that fits.

        Args:
            memory: of a GPU, bytes.
            batch: clips, over all replicas, that `peak` was measured with.
            replicas: GPUs.
        """
        peak = self.estimated if self.peak is None else self.peak
        own = batch / replicas
        # What is measured is above the estimate, for a part that grows as the estimate does.
        of_clip = self.of_clip * max(1.0, peak / self.estimated)
        fixed = max(0.0, peak - own * of_clip)
        return max(0, math.floor((USABLE * memory - fixed) / of_clip)) * replicas


def training_cost(settings: Settings, features: ClipFeatures, machine: Machine) -> TrainingCost:
    """Return what a few steps of the training take, on all devices.

    Args:
        settings: of the training.
        features: of a few clips, which are repeated to whole batches.
        machine: its strategy and precision.
    """
    batch = settings.training.global_batch
    clips = features.select(np.resize(np.arange(len(features)), STEPS * batch))
    plain = settings.replace(hard_mining=False, curriculum=False, epochs=EPOCHS)
    gpus = [device.name for device in machine.devices if device.device_type == "GPU"]
    gc.collect()  # networks that are no longer needed
    for gpu in gpus:
        tf.config.experimental.reset_memory_stats(gpu)
    before = [tf.config.experimental.get_memory_info(gpu)["current"] for gpu in gpus]
    sample = sample_features(
        clips, settings.training.batch_size, plain.devices.seed, STANDARDIZE_ON
    )
    with machine.strategy.scope():
        trainer = make_trainer(plain, sample, STEPS, policy=machine.precision.policy)
    seconds = _seconds_of_epochs(trainer, plain, clips, batch)
    after = [tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus]
    peaks = [peak - held for peak, held in zip(after, before, strict=True)]
    size = BYTES.get(machine.precision.computation, 2)
    own = math.ceil(batch / machine.replicas)
    whole = training_memory(trainer.classifier, own, size)
    rate = (EPOCHS - 1) * len(clips) / sum(seconds[1:])
    of_clip = (whole.activations + whole.batch) / own
    return TrainingCost(rate, whole.total, of_clip, max(peaks, default=None))


def _seconds_of_epochs(
    trainer: Trainer, settings: Settings, clips: ClipFeatures, batch: int
) -> list[float]:
    times = [time.perf_counter()]
    order = make_order(settings.training, settings.devices.seed, clips)
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter())
    )
    trainer.fit(
        training_batches(clips, order, batch, 0, EPOCHS),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        callbacks=[callback],
        shuffle=False,
        verbose=0,
    )
    return [after - before for before, after in itertools.pairwise(times)]


def cache_bytes(recipes: Sequence[Recipe], clips: int) -> int:
    """Return the size of the features of some clips."""
    return clips * sum(recipe.row_bytes for recipe in recipes)


def forecast_rows(
    rates: Rates, recipes: Sequence[Recipe], clips: int, trained: int, epochs: int
) -> list[tuple[str, str]]:
    """Return what a run will take: names and figures.

    Args:
        rates: of each stage.
        recipes: of the features.
        clips: of the dataset.
        trained: how many of them are trained on.
        epochs: of one classifier.
    """
    both = rates.decoding_and_streams
    minutes, gigabytes = clips / rates.extraction / 60, cache_bytes(recipes, clips) / 1e9
    training = epochs * trained / rates.training / 60
    longest = rates.bottleneck if minutes >= training else "training"
    words = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    return [
        ("decoding", f"{rates.decoding:,.1f} clips/s, with streams {both:,.1f}"),
        ("VGG19", f"{rates.network:,.1f} clips/s"),
        ("features", f"{rates.extraction:,.1f} clips/s, limited by {rates.bottleneck}"),
        ("training", f"{rates.training:,.0f} clips/s"),
        ("until features are there", f"{minutes:,.1f} minutes for {clips:,} clips"),
        ("an epoch", f"{trained / rates.training:,.1f} s for {trained:,} clips"),
        ("the run", f"{minutes + training:,.1f} minutes with {words}, held up by {longest}"),
        ("cache", f"{gigabytes:,.2f} GB"),
    ]


def describe_memory(cost: TrainingCost, memory: float | None, batch: int, replicas: int) -> str:
    """Return the memory of a GPU in training, and the largest batch, in words.

    Args:
        cost: of the training.
        memory: of a GPU, bytes; None: there is none, or it is unknown.
        batch: clips over all replicas.
        replicas: GPUs.
    """
    if cost.peak is None or memory is None:
        known = f"about {cost.estimated / 2**30:.2f} GiB of a device at --batch-size {batch}"
        return f"{known}, an estimate: no GPU whose memory is known"
    largest = cost.largest_batch(memory, batch, replicas)
    return (
        f"{cost.peak / 2**30:.1f} of {memory / 2**30:.1f} GiB of a GPU at --batch-size {batch}; "
        f"the largest that fits: about {largest:,}"
    )
