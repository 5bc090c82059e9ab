from violence_detection.runs.files import checkpoint_name


def test_checkpoints_are_sorted_by_epoch() -> None:
    names = [checkpoint_name(epoch) for epoch in (5, 10, 100)]
    assert names[0] == "checkpoint_epoch_005.keras"
    assert names == sorted(names)
