import keras
import numpy as np
import pytest
import tensorflow as tf

from violence_detection.models.layers import OneProductLSTM


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_lstm_is_that_of_keras_forward_and_backward(steps: int, dtype: str) -> None:
    clips = tf.random.stateless_normal((3, steps, 5), seed=(1, 2))
    results = []
    for kind in (OneProductLSTM, keras.layers.LSTM):
        layer = kind(4, return_sequences=True, use_cudnn=False, dtype=dtype)
        layer.build(clips.shape)
        weights = np.random.default_rng(0)
        layer.set_weights([weights.standard_normal(w.shape) for w in layer.get_weights()])
        with tf.GradientTape() as tape:
            tape.watch(clips)
            states = layer(clips)
            total = tf.reduce_sum(tf.cast(states, tf.float32) ** 2)
        wanted = [clips, *(weight.value for weight in layer.trainable_variables)]
        results.append([states, *tape.gradient(total, wanted)])
    tolerance = 1e-5 if dtype == "float32" else 0.1
    for ours, theirs in zip(*results, strict=True):
        ours, theirs = (np.asarray(values, np.float32) for values in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_lstm_with_a_mask_is_that_of_keras() -> None:
    clips = np.random.default_rng(0).standard_normal((3, 6, 5), dtype=np.float32)
    mask = np.arange(6) < np.array([[6], [2], [4]])
    ours, theirs = (
        OneProductLSTM(4, return_sequences=True),
        keras.layers.LSTM(4, return_sequences=True),
    )
    ours.build(clips.shape)
    theirs.build(clips.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(clips, mask=mask), theirs(clips, mask=mask), rtol=1e-5)
