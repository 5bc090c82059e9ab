"""The order of an epoch: classes, hard clips, easy clips."""

import threading

import numpy as np
import pytest

from violence_detection.training.order import EASIEST_SHARE, PACE, ClipOrder

LABELS = np.arange(40) % 5 < 2  # 16 violent clips, 24 nonviolent


def drawn(order: ClipOrder, epochs: int) -> list[list[int]]:
    return [order.of_epoch(epoch).tolist() for epoch in range(epochs)]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_stratified_batches_hold_both_classes_in_equal_parts(share: float) -> None:
    labels = np.arange(40) < share * 40
    order = ClipOrder(labels, seed=0, stratified=True)
    for epoch in range(3):
        batches = labels[order.of_epoch(epoch)].reshape(-1, 8)
        np.testing.assert_array_equal(batches.sum(axis=1), 4)
    np.testing.assert_array_equal(order.class_counts(), [20, 20])


def test_stratified_epochs_use_all_clips_of_the_larger_class() -> None:
    """36 of 40 clips are nonviolent, and 20 of them fit into an epoch."""
    labels = np.arange(40) >= 36
    order = ClipOrder(labels, seed=0, stratified=True)
    clips = np.concatenate(drawn(order, 9))
    counts = np.bincount(clips, minlength=40)
    assert set(counts[:36]) == {5}  # no clip twice before all were drawn once
    assert set(counts[36:]) == {45}


def test_hard_clip_is_drawn_more_often() -> None:
    order = ClipOrder(LABELS, seed=0, hard_mining=True)
    losses = np.ones(40)
    losses[7] = 10
    counts = np.zeros(40)
    for epoch in range(2, 200):
        order.losses_after(epoch - 2, losses)
        counts += np.bincount(order.of_epoch(epoch), minlength=40)
    others = np.delete(counts, 7)
    assert 2 < counts[7] / others.mean() < 10
    assert others.min() > 0  # easy clips are drawn, too


def test_losses_are_those_after_the_epoch_before_the_last() -> None:
    order = ClipOrder(LABELS, seed=0, hard_mining=True)
    first, second = np.zeros(40), np.zeros(40)
    first[:20] = second[20:] = 1
    assert sorted(order.of_epoch(1)) == list(range(40))  # nothing is known yet
    order.losses_after(0, first)
    order.losses_after(1, second)
    share = [(order.of_epoch(epoch) < 20).mean() for epoch in (2, 3)]
    assert share[0] > 0.6
    assert share[1] < 0.4


def test_epoch_waits_for_its_losses() -> None:
    order = ClipOrder(LABELS, seed=0, hard_mining=True)
    other = ClipOrder(LABELS, seed=0, hard_mining=True)
    found: list[list[int]] = []
    waiting = threading.Thread(target=lambda: found.append(order.of_epoch(2).tolist()), daemon=True)
    waiting.start()
    order.losses_after(1, np.zeros(40))  # of another epoch
    losses = np.arange(40.0)
    order.losses_after(0, losses)
    waiting.join(60)
    other.losses_after(0, losses)
    assert found == [other.of_epoch(2).tolist()]


def test_end_frees_an_epoch_that_waits() -> None:
    order = ClipOrder(LABELS, seed=0, hard_mining=True)
    waiting = threading.Thread(target=order.of_epoch, args=(2,), daemon=True)
    waiting.start()
    order.end()
    waiting.join(60)
    assert not waiting.is_alive()


@pytest.mark.parametrize("stratified", [False, True])
def test_curriculum_begins_with_the_easiest_of_each_class(stratified: bool) -> None:
    epochs, all_from = 20, 10
    assert all_from == PACE * epochs
    order = ClipOrder(LABELS, seed=0, stratified=stratified, curriculum_epochs=epochs)
    order.easiness = np.random.default_rng(0).random(40) + LABELS  # violent clips are harder
    of_epochs = list(map(set, drawn(order, epochs)))
    for label in (0, 1):
        members = np.flatnonzero(order.labels == label)
        by_easiness = members[np.argsort(order.easiness[members])]
        easiest = by_easiness[: int(EASIEST_SHARE * len(members))]
        assert of_epochs[0] & set(members) == set(easiest)
        assert not any(by_easiness[-1] in epoch for epoch in of_epochs[:all_from])
    assert set.union(*of_epochs[all_from:]) == set(range(40))
    if not stratified:
        assert all(len(epoch) == 40 for epoch in of_epochs[all_from:])


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("hard_mining", [False, True])
@pytest.mark.parametrize("curriculum_epochs", [0, 10])
def test_order_is_a_function_of_seed_epoch_and_losses(
    stratified: bool, hard_mining: bool, curriculum_epochs: int
) -> None:
    def order(seed: int) -> ClipOrder:
        made = ClipOrder(LABELS, seed, stratified, hard_mining, curriculum_epochs)
        made.easiness = np.arange(40.0)
        made.losses_after(2, np.arange(40.0))
        return made

    whole, resumed, other = order(1), order(1), order(2)
    whole.of_epoch(0)
    whole.of_epoch(1)
    np.testing.assert_array_equal(whole.of_epoch(4), resumed.of_epoch(4))
    np.testing.assert_array_equal(whole.of_epoch(4), resumed.of_epoch(4))
    assert (whole.of_epoch(4) != other.of_epoch(4)).any()
    assert len(whole.of_epoch(4)) == 40
