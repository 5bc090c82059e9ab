import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit

from violence_detection.models.classifier import (
    Member,
    as_plain_keras,
    average_of,
    classifier,
    fusion_of,
    members_of,
    with_attention,
)
from violence_detection.settings.constants import HEADS
from violence_detection.training.trainer import standardize_on


def test_classifier_has_about_two_million_parameters_at_fc2() -> None:
    model = classifier(16, 4096, dropout=0.5, l2=1e-4)
    assert 1.8e6 < model.count_params() < 2.2e6


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_probability_and_attention_by_name(dtype: str, head: str) -> None:
    model = classifier(16, 32, dropout=0.5, l2=1e-4, head=head, dtype=dtype)
    clips = np.random.default_rng(0).random((3, 16, 32), dtype=np.float32)
    outputs = with_attention(model)(clips.astype(np.float16))
    violence, attention = (np.asarray(outputs[name]) for name in ("violence", "attention"))
    assert violence.shape == (3, 1)
    assert violence.dtype == np.float32
    assert ((violence > 0) & (violence < 1)).all()
    assert attention.shape == (3, 16)
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)


def test_saved_classifier_loads_without_this_program(tmp_path: Path) -> None:
    model = classifier(4, 8, dropout=0.5, l2=1e-4, head="bidirectional")
    clips = np.random.default_rng(0).random((5, 4, 8), dtype=np.float32)
    standardize_on(model, tf.data.Dataset.from_tensors(3 * clips + 1))
    as_plain_keras(model).save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "np.save(sys.argv[2], model(np.load(sys.argv[2])))\n"
    )
    values = tmp_path / "values.npy"
    np.save(values, clips)
    command = [sys.executable, "-c", script, str(tmp_path / "model.keras"), str(values)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(values), model(clips), rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_every_head_is_the_same_when_it_was_saved(tmp_path: Path, head: str, dtype: str) -> None:
    keras.utils.set_random_seed(0)
    model = classifier(6, 8, dropout=0.5, l2=1e-4, head=head, dtype=dtype, projection=16, units=16)
    clips = np.random.default_rng(0).random((5, 6, 8), dtype=np.float32)
    standardize_on(model, tf.data.Dataset.from_tensors(clips))
    as_plain_keras(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    expected, found = (np.asarray(network(clips)) for network in (model, loaded))
    assert np.ptp(expected) > 1e-3  # predictions differ between clips
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("head", HEADS)
def test_order_of_the_frames_matters_but_for_the_mean(head: str) -> None:
    keras.utils.set_random_seed(0)
    model = classifier(6, 8, dropout=0.5, l2=0.0, head=head, projection=16, units=16)
    # Each value's logarithm grows evenly, so that the changes are the same in reverse.
    slopes = np.random.default_rng(0).random((9, 1, 8), dtype=np.float32)
    clips = np.expm1(slopes * np.arange(6, dtype=np.float32)[:, None])
    forward, backward = np.asarray(model(clips)), np.asarray(model(clips[:, ::-1]))
    assert np.allclose(forward, backward, atol=1e-5) == (head == "mean")


@pytest.mark.parametrize("head", HEADS)
def test_one_frame_a_clip_is_enough_for_every_head(head: str) -> None:
    clips = np.random.default_rng(0).random((3, 1, 8), dtype=np.float32)
    assert classifier(1, 8, dropout=0.5, l2=0.0, head=head)(clips).shape == (3, 1)


def test_fusion_is_the_weighted_sum_of_the_logits_of_parts(tmp_path: Path) -> None:
    parts, weights = (slice(0, 6), slice(6, 9)), (0.25, 1.5)
    members = []
    for part, weight in zip(parts, weights, strict=True):
        model = classifier(4, part.stop - part.start, dropout=0, l2=0, units=8, projection=8)
        members.append(Member(as_plain_keras(model), part, weight))
    path = tmp_path / "fusion.keras"
    fusion_of(members, -0.5, 9).save(path)
    whole = keras.models.load_model(path, safe_mode=True)
    found = members_of(whole)
    assert [(member.part, member.weight) for member in found] == [(p, w) for _, p, w in members]
    batch = np.random.default_rng(0).random((5, 4, 9), np.float32)
    own = [with_attention(model)(batch[:, :, part]) for model, part, _ in members]
    logits = sum(w * logit(np.asarray(o["violence"])) for w, o in zip(weights, own, strict=True))
    outputs = with_attention(whole)(batch)
    np.testing.assert_allclose(outputs["violence"], expit(logits - 0.5), atol=1e-6)
    attention = sum(w * np.asarray(o["attention"]) for w, o in zip(weights, own, strict=True))
    np.testing.assert_allclose(outputs["attention"], attention / 1.75, atol=1e-6)


def test_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    members = []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        members.append(as_plain_keras(classifier(4, 6, dropout=0.1, l2=0, units=8, projection=8)))
    path = tmp_path / "ensemble.keras"
    average_of(members).save(path)
    whole = keras.models.load_model(path, safe_mode=True)
    batch = np.random.default_rng(0).random((5, 4, 6), np.float32)
    expected = np.mean([np.asarray(member(batch)) for member in members], axis=0)
    outputs = with_attention(whole)(batch)
    np.testing.assert_allclose(outputs["violence"], expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(outputs["attention"], axis=1), 1, atol=1e-5)
    attention = [np.asarray(with_attention(m)(batch)["attention"]) for m in members]
    np.testing.assert_allclose(outputs["attention"], np.mean(attention, axis=0), atol=1e-6)
