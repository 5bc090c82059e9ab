"""Checks of what is computed: each device, kernel and precision against float32 on the CPU."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from violence_detection.experiments.preflight.checks import (
    FAILED,
    PASSED,
    SKIPPED,
    TENSOR_FLOAT,
    Check,
    attempted,
    compared,
)
from violence_detection.experiments.preflight.machine_checks import NO_GPU
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.network import make_network
from violence_detection.features.recipe import weights_of
from violence_detection.models import backbone_title
from violence_detection.runtime.machine import Machine
from violence_detection.settings.constants import ONNX, PIXELS, XLA_ALL
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import (
    ClipFeatures,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.loop import STANDARDIZE_ON, make_order
from violence_detection.training.trainer import Trainer, make_trainer

CPU = "/device:CPU:0"
WITH_LSTM = ("attention-lstm", "bidirectional")
STEPS = 3  # that replicas train
REDUCED = {"GPU": 64 * 2**20, "CPU": 4 * 2**20}  # bytes that are summed over the replicas
REPEATS = 5
DRIVER = "update the driver, or try --no-mixed-precision"


def check_features(
    images: np.ndarray, recipe: Recipe, settings: Settings, machine: Machine
) -> list[Check]:
    """Check that each device computes the features that the CPU computes in float32.

    Args:
        images: `(clips, frames, 224, 224, 3)` uint8.
        recipe: of the features.
        settings: weights and devices.
        machine: its devices and precision.
    """
    name = backbone_title(recipe.backbone)
    if recipe.backbone == PIXELS or recipe.backbone.endswith(ONNX):
        reason = (
            "there is no network" if recipe.backbone == PIXELS else "ONNX Runtime's own devices"
        )
        return [Check(f"{name} on each device", SKIPPED, reason)]
    weights = weights_of(recipe, settings)

    def features(device: str, dtype: str) -> np.ndarray:
        return make_network(tf.distribute.OneDeviceStrategy(device), recipe, weights, dtype)(images)

    expected, dtype = features(CPU, "float32"), machine.precision.computation
    return [
        compared(
            f"{name} on {device.name.removeprefix('/device:')}",
            features(device.name, dtype),
            expected,
            in_products(dtype, device),
            DRIVER,
        )
        for device in machine.devices
    ]


def in_products(dtype: str, device: tf.config.LogicalDevice) -> str:
    """Return what a device multiplies in, where a dtype is asked for: a key of `TOLERANCES`."""
    rounds = (
        device.device_type == "GPU" and tf.config.experimental.tensor_float_32_execution_enabled()
    )
    return TENSOR_FLOAT if dtype == "float32" and rounds else dtype


@dataclass(frozen=True)
class Variant:
    """A way to compute a training step."""

    name: str
    policy: str  # Keras dtype policy
    fused: bool = False  # cuDNN's LSTM
    xla: bool = False

    @property
    def dtype(self) -> str:
        """What most is computed in."""
        return self.policy.removeprefix("mixed_")

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled, so that small gradients are no zeros."""
        return self.policy == "mixed_float16"


REFERENCE = Variant("float32 on the CPU", "float32")
VARIANTS = (
    Variant("LSTM by cuDNN", "float32", fused=True),
    Variant("LSTM unrolled", "float32"),
    Variant("unrolled with XLA", "float32", xla=True),
    Variant("float16, by cuDNN", "mixed_float16", fused=True),
    Variant("float16, unrolled", "mixed_float16"),
    Variant("float16 with XLA", "mixed_float16", xla=True),
)


@dataclass(frozen=True)
class Step:
    """What a training step computes of a batch."""

    losses: np.ndarray  # (clips,)
    gradients: list[np.ndarray]
    scale: float  # of the loss


def check_classifier(
    settings: Settings, features: ClipFeatures, machine: Machine
) -> Iterator[Check]:
    """Check loss and gradients, by each kernel and in each precision, on the first device.

    Dropout is off: each variant would draw its own.

    Args:
        settings: of the classifier.
        features: of a few clips.
        machine: its devices and precision.
    """
    settings = settings.replace(dropout=0.0)
    expected = _step(settings, features, REFERENCE, CPU)
    device, own = machine.devices[0], machine.precision
    variants = list(VARIANTS)
    if own.computation == "bfloat16":
        variants.append(Variant("bfloat16, unrolled", own.policy))
    for variant in variants:
        if variant.scaled and not settings.devices.mixed_precision:
            yield Check(variant.name, SKIPPED, "--no-mixed-precision")
        elif variant.fused and settings.model.head not in WITH_LSTM:
            yield Check(variant.name, SKIPPED, f"--head {settings.model.head} has no LSTM")
        elif variant.fused and device.device_type != "GPU":
            yield Check(variant.name, SKIPPED, NO_GPU)
        else:
            step = partial(_step, settings, features, variant, device.name)
            dtype = in_products(variant.dtype, device)
            check = partial(_compared_steps, variant, step, expected, dtype)
            yield from attempted(variant.name, check)


def _compared_steps(
    variant: Variant, step: Callable[[], Step], expected: Step, dtype: str
) -> list[Check]:
    return [compared_step(variant, step(), expected, dtype)]


def compared_step(variant: Variant, found: Step, expected: Step, dtype: str) -> Check:
    """Check a variant's loss and gradients against the CPU's.

    Args:
        variant: how the step was computed.
        found, expected: the step, and that of the CPU.
        dtype: a key of `TOLERANCES`.
    """
    scaled = f", loss scaled by {found.scale:g}" if found.scale != 1 else ""
    pairs = (
        ([found.losses], [expected.losses], "losses"),
        (found.gradients, expected.gradients, "gradients"),
    )
    checks = [
        compared(variant.name, own, other, dtype, _way_out(variant), scaled)
        for own, other, _ in pairs
    ]
    failed = [n for n, check in enumerate(checks) if check.state == FAILED]
    worst = failed[0] if failed else 1
    return Check(variant.name, checks[worst].state, f"{pairs[worst][2]} {checks[worst].detail}")


def _way_out(variant: Variant) -> str:
    if variant.xla:
        return "train without --xla"
    if variant.policy != "float32":
        return "train with --no-mixed-precision"
    return "train with --xla, or update the driver" if variant.fused else "update the driver"


def _step(settings: Settings, features: ClipFeatures, variant: Variant, device: str) -> Step:
    """Return loss and gradients of all clips at once, unscaled, on one device."""
    clips = len(features)
    keras.utils.set_random_seed(settings.devices.seed)
    own = settings.replace(xla=variant.xla and XLA_ALL, batch_size=clips)
    with tf.distribute.OneDeviceStrategy(device).scope():
        trainer = make_trainer(
            own,
            sample_features(features, clips, settings.devices.seed, STANDARDIZE_ON),
            steps=1,
            policy=variant.policy,
        )
        for layer in trainer.classifier.layers:
            if isinstance(layer, keras.layers.LSTM):
                layer.use_cudnn = "auto" if variant.fused else False
        values, labels, weights = map(tf.constant, features.batch(np.arange(clips)))
        compute = trainer.compiled_gradients if variant.xla else tf.function(trainer.gradients)
        optimizer, share = trainer.optimizer, 1.0
        while True:
            scale = optimizer.scale_loss(tf.ones(())) * share
            unscale = share * (float(optimizer.dynamic_scale) if variant.scaled else 1.0)
            found, losses, _ = compute(values, labels, weights, scale)
            gradients = [keras.ops.convert_to_numpy(g).astype(np.float64) / unscale for g in found]
            # As in training: a step that overflows is repeated with half the scale.
            if all(np.isfinite(gradient).all() for gradient in gradients) or unscale <= 1:
                return Step(np.asarray(losses), gradients, unscale)
            share /= 2


def check_replicas(settings: Settings, features: ClipFeatures, machine: Machine) -> Check:
    """Check that all replicas together train what one trains alone: loss and weights.

    Args:
        settings: of the training.
        features: of a few clips.
        machine: its strategy and precision.
    """
    name = f"{machine.replicas} replicas equal one"
    if machine.replicas == 1:
        return Check("replicas equal one", SKIPPED, "there is one replica")
    one = tf.distribute.OneDeviceStrategy(machine.devices[0].name)
    policy = machine.precision.policy
    dtype = in_products(machine.precision.computation, machine.devices[0])
    found = _trained(settings, features, machine.strategy, policy)
    expected = _trained(settings, features, one, policy)
    way_out = "train with --replicas 1, or try NCCL_P2P_DISABLE=1"
    return compared(name, found, expected, dtype, way_out, f", after {STEPS} steps")


def _trained(
    settings: Settings, features: ClipFeatures, strategy: tf.distribute.Strategy, policy: str
) -> list[np.ndarray]:
    """Return how far a few steps have moved each weight."""
    batch = settings.training.global_batch
    steps = steps_per_epoch(len(features), batch)
    epochs = -(-STEPS // steps)
    plain = settings.replace(
        **{"dropout": 0.0, "augment": (), "hard_mining": False, "curriculum": False},
        **{"warmup_epochs": 0, "epochs": epochs},
    )
    keras.utils.set_random_seed(settings.devices.seed)
    with strategy.scope():
        trainer = make_trainer(
            plain,
            sample_features(features, len(features), settings.devices.seed, STANDARDIZE_ON),
            steps,
            policy=policy,
        )
    before = weights_of_classifier(trainer)
    order = make_order(plain.training, plain.devices.seed, features)
    batches = training_batches(features, order, batch, 0, epochs)
    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    return [a - b for a, b in zip(weights_of_classifier(trainer), before, strict=True)]


def weights_of_classifier(trainer: Trainer) -> list[np.ndarray]:
    """Return the weights that are trained, as float32 arrays."""
    return [keras.ops.convert_to_numpy(w) for w in trainer.classifier.trainable_weights]


def check_all_reduce(machine: Machine) -> Check:
    """Check a sum over all replicas, and measure its rate."""
    name = "all-reduce"
    if machine.replicas == 1:
        return Check(name, SKIPPED, "there is one replica")
    size = REDUCED[machine.devices[0].device_type]
    strategy = machine.strategy

    @tf.function
    def summed() -> object:
        def of_replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            number = tf.cast(context.replica_id_in_sync_group + 1, tf.float32)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.fill([size // 4], number))

        return strategy.run(of_replica)

    def sums() -> Sequence[np.ndarray]:
        local = strategy.experimental_local_results(summed())
        return [part[-1].numpy() if number else part.numpy() for number, part in enumerate(local)]

    found = sums()
    expected = machine.replicas * (machine.replicas + 1) / 2
    if not all(np.all(part == expected) for part in found):
        way_out = "try NCCL_P2P_DISABLE=1, or train with --replicas 1"
        return Check(name, FAILED, f"the sum over the replicas is wrong: {way_out}")
    started = time.perf_counter()
    for _ in range(REPEATS):
        for part in strategy.experimental_local_results(summed()):
            part[-1].numpy()  # waits for it
    rate = REPEATS * size / (time.perf_counter() - started)
    return Check(name, PASSED, f"{size / 2**20:.0f} MiB at {rate / 1e9:.2f} GB/s")
