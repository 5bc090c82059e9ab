import numpy as np

from violence_detection.export.inputs import batches, join

CLIPS = [{"a": np.full((1, 2), number), "b": np.full((1,), -number)} for number in range(5)]


def test_the_last_clip_is_repeated_to_fill_a_batch() -> None:
    joined = join(CLIPS[:2], 3)
    np.testing.assert_array_equal(joined["a"], [[0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(joined["b"], [0, -1, -1])


def test_batches_have_all_clips_in_order() -> None:
    assert [batch["b"].tolist() for batch in batches(CLIPS, 2)] == [[0, -1], [-2, -3], [-4, -4]]
    assert list(batches([], 2)) == []
