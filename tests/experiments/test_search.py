import dataclasses
import json
import logging
import math
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from optuna.distributions import CategoricalDistribution, FloatDistribution

from violence_detection.errors import RunError, UserError
from violence_detection.experiments.search import (
    SPACE,
    plot_range_test,
    propose_rate,
    range_test,
    read_grid,
    trials_table,
    tune,
    write_config,
)
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.runtime.logs import package_log
from violence_detection.settings.schema import Settings, parse_settings
from violence_detection.training.trainer import Trainer, make_loss, make_trainer

ROOT = Path(__file__).parent.parent.parent
CLIPS, BATCH = 64, 16
PLAIN = Settings(
    dataset_path=Path("/"),
    epochs=1,
    warmup_epochs=0,
    batch_size=BATCH,
    dropout=0.0,
    use_focal_loss=False,
)

Report = Callable[[int, float], None]


def drawn_clips() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and weights of random clips whose violent ones have a bump.

    The last two places of every batch are padding.
    """
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (CLIPS, 1)).astype(np.float32)
    features = np.abs(random.standard_normal((CLIPS, 6, 16))).astype(np.float16)
    features[labels[:, 0] == 1, 2:4] += 0.7
    weights = np.where(labels[:, 0] == 1, 0.7, 1.5).astype(np.float32)
    weights[np.arange(CLIPS) % BATCH >= BATCH - 2] = 0
    return features, labels, weights


def new_trainer(
    settings: Settings, steps: int = 7, replicas: int = 1, policy: str = "float32"
) -> tuple[Trainer, tf.data.Dataset]:
    keras.utils.set_random_seed(0)
    clips = drawn_clips()
    batches = tf.data.Dataset.from_tensor_slices(clips).batch(BATCH, drop_remainder=True)
    with make_strategy(find_devices(replicas), settings.batch_size).scope():
        sample = batches.map(lambda features, *_: features)
        trainer = make_trainer(settings, sample, steps, policy=policy)
    return trainer, batches.repeat()


def test_proposed_rate_learns_better_than_far_ones() -> None:
    rates, losses = range_test(*new_trainer(PLAIN), steps=80)
    proposed = propose_rate(rates, losses)
    reached = []
    for rate in (proposed / 100, proposed, proposed * 1000):
        trainer, batches = new_trainer(dataclasses.replace(PLAIN, learning_rate=rate), steps=30)
        trainer.fit(batches, steps_per_epoch=30, shuffle=False, verbose=0)
        reached.append(trainer.evaluate(batches, steps=4, verbose=0, return_dict=True)["loss"])
    assert reached[1] < 0.7 * min(reached[0], reached[2])


def test_losses_are_those_of_each_step() -> None:
    trainer, batches = new_trainer(PLAIN)
    features, labels, weights = drawn_clips()
    probabilities = trainer.classifier.predict(features, verbose=0)
    losses = np.asarray(make_loss(PLAIN)(labels, probabilities)) * weights
    expected = losses.reshape(4, BATCH)[:, :-2].mean(axis=1)
    rates, found = range_test(trainer, batches, steps=8, low=1e-12, high=1e-10)
    np.testing.assert_allclose(found, np.tile(expected, 2), rtol=1e-4)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 100 ** (1 / 7))
    assert (rates[0], rates[-1]) == pytest.approx((1e-12, 1e-10))


def test_two_replicas_lose_as_one() -> None:
    settings = dataclasses.replace(PLAIN, clipnorm=0.05)
    _, one = range_test(*new_trainer(settings), steps=12, low=1e-4, high=1e-2)
    _, two = range_test(*new_trainer(settings, replicas=2), steps=12, low=1e-4, high=1e-2)
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(two, one, rtol=1e-3)


def test_range_test_ends_when_the_loss_blows_up() -> None:
    rates, losses = range_test(*new_trainer(PLAIN), steps=40, low=1e-3, high=1e5)
    assert len(rates) == len(losses) < 40
    assert losses[-1] > 4 * losses.min()


def test_range_test_with_loss_scaling() -> None:
    trainer, batches = new_trainer(PLAIN, policy="mixed_float16")
    rates, losses = range_test(trainer, batches, steps=12, low=1e-4, high=1e-2)
    assert losses[-1] < 0.95 * losses[0]
    assert float(trainer.optimizer.learning_rate) == pytest.approx(rates[-1])


RATES = np.geomspace(1e-6, 1, 100)
FALL = 1 - 0.5 / (1 + np.exp(-3 * (np.log10(RATES) + 3)))  # steepest at 1e-3
NOISE = np.random.default_rng(0).standard_normal(100)


def blown_up(losses: np.ndarray) -> np.ndarray:
    """Return losses that go up and down wildly at rates above 0.1, and end in nan."""
    wild = 5 + 4 * np.sin(np.arange(100))
    return np.append(np.where(RATES > 0.1, wild, losses)[:-1], np.nan)


@pytest.mark.parametrize(
    "losses",
    [
        *(FALL, 100 * FALL, FALL + 0.03 * NOISE),
        *(blown_up(FALL), blown_up(FALL + 0.03 * NOISE), FALL + 30 * RATES),
    ],
)
def test_proposed_rate_is_where_the_loss_falls_most_steeply(losses: np.ndarray) -> None:
    proposed = propose_rate(RATES, losses)
    assert type(proposed) is float
    assert 4e-4 < proposed < 2.5e-3


@pytest.mark.parametrize(
    "losses",
    [
        *(np.ones(100), 1 + 0.1 * NOISE, 1 + RATES, blown_up(np.ones(100)), np.full(100, np.nan)),
        *(np.append(np.ones(99), np.nan), np.append(1, np.full(99, np.nan))),
    ],
)
def test_loss_that_never_falls_is_told(losses: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"from 1e-06 to 1.*--learning-rate"):
        propose_rate(RATES, losses)


@pytest.mark.parametrize("proposed", [1e-3, None])
def test_plot_is_an_image(proposed: float | None, tmp_path: Path) -> None:
    path = tmp_path / "range_test.png"
    plot_range_test(RATES, blown_up(FALL + 0.03 * NOISE), proposed, path)
    image = cv2.imread(str(path))
    reddish = (image[..., 2] > 150) & (image[..., :2] < 90).all(axis=-1)
    assert reddish.any() == (proposed is not None)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_losses_that_are_no_numbers_are_plotted(tmp_path: Path) -> None:
    plot_range_test(RATES[:3], np.array([np.nan, np.inf, np.nan]), None, tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


SMALL_SPACE = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "dropout": FloatDistribution(0.0, 0.8),
    "batch_size": CategoricalDistribution((16, 32, 64)),
}


def closeness(settings: Settings, report: Report | None = None) -> float:
    """Return a score that is best, 0, at a rate of 3e-4, a dropout of 0.2 and a batch of 16."""
    return -(
        abs(math.log10(settings.learning_rate / 3e-4))
        + abs(settings.dropout - 0.2)
        + (settings.batch_size != 16)
    )


def test_search_comes_near_the_optimum(tmp_path: Path) -> None:
    start = Settings()
    best = tune(start, closeness, 40, tmp_path / "search.sqlite", SMALL_SPACE)
    assert {name: type(value) for name, value in best.items()} == {
        "learning_rate": float,
        "dropout": float,
        "batch_size": int,
    }
    assert closeness(dataclasses.replace(start, **best)) > 0.25 * closeness(start)


def test_search_begins_with_the_settings_as_they_are(tmp_path: Path) -> None:
    start, tried = Settings(), []

    def score(settings: Settings, report: Report) -> float:
        tried.append(settings)
        return -len(tried)

    best = tune(start, score, 3, tmp_path / "search.sqlite")
    assert tried[0] == start
    assert best == {name: getattr(start, name) for name in SPACE}
    assert len({settings.dropout for settings in tried}) == 3


def test_search_begins_as_near_as_its_space_allows(tmp_path: Path) -> None:
    tried = []
    start = Settings(learning_rate=0.5, dropout=0.3, batch_size=24)
    tune(start, lambda s, _: tried.append(s) or 0.0, 1, tmp_path / "search.sqlite", SMALL_SPACE)
    assert (tried[0].learning_rate, tried[0].dropout) == (1e-2, 0.3)
    assert tried[0].batch_size in (16, 32, 64)


def test_search_goes_on(tmp_path: Path) -> None:
    path, calls = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        calls.append(settings)
        return closeness(settings)

    first = tune(Settings(), score, 5, path, SMALL_SPACE)
    second = tune(Settings(), score, 8, path, SMALL_SPACE)
    assert len(calls) == len(trials_table(path)) == 8
    assert len({settings.dropout for settings in calls}) == 8
    scores = [closeness(dataclasses.replace(Settings(), **best)) for best in (first, second)]
    assert scores[1] >= scores[0]
    assert tune(Settings(), score, 8, path, SMALL_SPACE) == second
    assert len(calls) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from violence_detection.settings.schema import Settings
from violence_detection.experiments.search import tune
from tests.experiments.test_search import SMALL_SPACE, closeness

calls = []

def score(settings, report):
    calls.append(settings)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return closeness(settings)

tune(Settings(), score, 14, Path(sys.argv[1]), SMALL_SPACE)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 12])
def test_killed_search_goes_on_as_if_it_had_not_been(at: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "search.sqlite", tmp_path / "whole.sqlite"
    command = [sys.executable, "-c", KILLED, str(path), str(at)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert [row["state"] for row in trials_table(path)] == ["complete"] * (at - 1) + ["running"]
    best = tune(Settings(), closeness, 14, path, SMALL_SPACE)
    assert best == tune(Settings(), closeness, 14, whole, SMALL_SPACE)
    table = trials_table(path)
    assert table.pop(at - 1)["state"] == "fail"
    values = [[{**row, "number": 0} for row in rows] for rows in (table, trials_table(whole))]
    assert values[0] == values[1]


def test_bad_trial_is_pruned_and_counts(tmp_path: Path) -> None:
    path, folds = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        trial = sum(fold == 0 for _, fold in folds)
        for fold in range(3):
            folds.append((trial, fold))
            report(fold, 0.1 if trial == 7 else 0.9 + 0.001 * trial)
        return 0.9

    tune(Settings(), score, 9, path, SMALL_SPACE)
    assert folds.count((7, 0)) == 1
    assert (7, 1) not in folds
    table = trials_table(path)
    assert len(table) == 9
    assert (table[7]["state"], table[7]["score"]) == ("pruned", 0.1)
    assert list(table[0]) == ["number", "state", "score", *SMALL_SPACE]


def test_training_that_blew_up_is_never_the_best(tmp_path: Path) -> None:
    path = tmp_path / "search.sqlite"
    start = Settings(dropout=0.7)

    def score(settings: Settings, report: Report) -> float:
        return math.nan if settings.dropout > 0.5 else settings.dropout

    with pytest.raises(UserError, match=r"none of the 1 trials in .*search\.sqlite"):
        tune(start, score, 1, path, SMALL_SPACE)
    assert tune(start, score, 8, path, SMALL_SPACE)["dropout"] <= 0.5
    assert len(trials_table(path)) == 8


def test_trial_that_fails_is_made_again(tmp_path: Path) -> None:
    path, tried = tmp_path / "search.sqlite", []

    def score(settings: Settings, report: Report) -> float:
        tried.append(settings)
        if len(tried) == 1:
            raise RunError("no room")
        return 0.0

    with pytest.raises(RunError, match="no room"):
        tune(Settings(), score, 2, path, SMALL_SPACE)
    tune(Settings(), score, 2, path, SMALL_SPACE)
    assert tried[0] == tried[1] == Settings()
    assert [row["state"] for row in trials_table(path)] == ["fail", "complete", "complete"]


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"epochs": 50}, {}, r"--epochs 100 \(now 50\)"),
        ({"streams": ("rgb",)}, {}, "--streams"),
        ({}, {"clips": "others"}, "other clips"),
        ({}, {"space": SPACE}, "another search space"),
    ],
)
def test_another_search_is_refused(
    changes: dict, arguments: dict, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "search.sqlite"
    first = {"clips": "some", "space": SMALL_SPACE}
    tune(Settings(), closeness, 1, path, **first)
    with pytest.raises(UserError, match=rf"search\.sqlite holds a search with .*{words}.*another"):
        tune(dataclasses.replace(Settings(), **changes), closeness, 2, path, **first | arguments)


def test_what_decides_nothing_may_change(tmp_path: Path) -> None:
    path = tmp_path / "search.sqlite"
    tune(Settings(tune=1), closeness, 1, path, SMALL_SPACE)
    changed = Settings(tune=2, cache_dir=Path("elsewhere"), dropout=0.1, debug=True)
    tune(changed, closeness, 2, path, SMALL_SPACE)
    assert len(trials_table(path)) == 2


def test_file_that_is_no_search_is_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("no database " * 100)
    with pytest.raises(UserError, match=r"notes\.txt is damaged or no search"):
        tune(Settings(), closeness, 1, text, SMALL_SPACE)
    assert text.read_text().startswith("no database")
    with pytest.raises(UserError, match=r"gone\.sqlite: no such file"):
        trials_table(tmp_path / "gone.sqlite")
    sqlite3.connect(other).close()
    with pytest.raises(UserError, match=r"other\.sqlite holds no search"):
        trials_table(other)
    with pytest.raises(RunError, match=r"search\.sqlite cannot be written: .*unable to open"):
        tune(Settings(), closeness, 1, tmp_path / "gone" / "search.sqlite", SMALL_SPACE)


def test_search_says_a_line_per_trial_and_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "what? {a} #name%20"
    level = package_log.level
    package_log.setLevel(logging.INFO)
    package_log.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tune(Settings(), closeness, 3, path, SMALL_SPACE)
    finally:
        package_log.removeHandler(caplog.handler)
        package_log.setLevel(level)
    records = [r for r in caplog.records if r.name.startswith(package_log.name)]
    lines = [record.getMessage() for record in records]
    lines = list(dict.fromkeys(lines))  # twice where the log propagates
    assert len(lines) == 3
    assert lines[0].startswith("trial 0 (1 of 3)  score -1.8229  learning_rate 0.001 dropout 0.5")
    assert capfd.readouterr().err == ""
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_grid_is_every_combination_in_order(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    lists = {"dropout": [0, 0.5, 0.5], "--batch-size": [8, 16], "label-smoothing": [0.1]}
    path.write_text(json.dumps(lists))
    assert [tuple(values.items()) for values in read_grid(path)] == [
        (("dropout", dropout), ("batch_size", batch_size), ("label_smoothing", 0.1))
        for dropout in (0.0, 0.5)
        for batch_size in (8, 16)
    ]
    assert type(read_grid(path)[0]["dropout"]) is float


def test_grid_values_are_those_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    lists = {
        **{"class_weights": [None, [1, 2.5]], "focal_alpha": [None], "hard_mining": [True]},
        **{"augment": [["jitter", "drop"]], "head": ["mean"]},
    }
    path.write_text(json.dumps(lists))
    first, second = read_grid(path)
    assert first["class_weights"] is None
    assert second == {
        **{"class_weights": (1.0, 2.5), "focal_alpha": None, "hard_mining": True},
        **{"augment": ("jitter", "drop"), "head": "mean"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{dropout: 1}", "cannot be read as JSON"),
        ("[1, 2]", "is no JSON object"),
        ("{}", "is no JSON object"),
        ('{"dropout": 0.5}', r"dropout 0\.5 is no list"),
        ('{"dropout": []}', r"dropout \[\] is no list"),
        ('{"dropot": [0.5]}', "dropot is no setting"),
        ('{"batch-size": [1], "batch_size": [2]}', "batch_size is there twice"),
        ('{"dropout": [0.1, "0.5"]}', r'dropout "0\.5": is not of type float'),
        ('{"l2": [Infinity]}', "l2 Infinity: is not of type float"),
        ('{"dropout": [true]}', "dropout true: is not of type float"),
        ('{"dropout": [NaN]}', "dropout NaN: is not of type float"),
        ('{"dropout": [null]}', "dropout null: is not of type float"),
        ('{"dropout": [1.5]}', r"dropout 1\.5: must be at least 0 and below 1"),
        ('{"batch-size": [8.0]}', r"batch-size 8\.0: is not of type int"),
        ('{"units": [true]}', "units true: is not of type int"),
        ('{"hard_mining": [1]}', "hard_mining 1: is not of type bool"),
        ('{"head": ["gru"]}', 'head "gru": is not one of .*mean'),
        ('{"augment": [["blur"]]}', r"augment \[\"blur\"\]: .*is not one of"),
        ('{"streams": [["rgb"]]}', "streams is not searched by a grid"),
        ('{"unlabeled": ["/clips"]}', "unlabeled is not searched by a grid"),
        ('{"augment": ["noise"]}', 'augment "noise": is not of type tuple'),
        ('{"class_weights": [[1]]}', r"class_weights \[1\]: is not of type tuple"),
        ('{"class_weights": [[1, 0]]}', r"class_weights \[1, 0\]: must both be above 0"),
        ('{"class_weights": [[1, "a"]]}', r'class_weights \[1, "a"\]: is not of type'),
    ],
)
def test_wrong_grid_is_told(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"grid\.json.*{words}"):
        read_grid(path)


def test_grid_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json cannot be read"):
        read_grid(tmp_path / "gone.json")


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    values = {"learning_rate": 0.00123, "units": 64, "head": "mean", "class_weights": (1.0, 2.5)}
    write_config(values | {"cache_dir": Path("драка")}, path)
    assert "драка" in path.read_text(encoding="utf-8")
    settings = parse_settings(["--dataset-path", "/", "--config", str(path)])
    assert settings.cache_dir == Path("драка")
    assert {name: getattr(settings, name) for name in values} == values
