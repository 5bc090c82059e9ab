from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation import FIGURES, as_markdown, paired_gain
from benchmarks.linked_clips import make_imbalanced
from violence_detection.clips.clip import Clip


def test_training_side_is_made_imbalanced_by_whole_sources() -> None:
    clips = [Clip(Path("/"), str(n), n % 2, "train", f"source {n // 10}") for n in range(200)]
    train = np.arange(40, 200)
    chosen = make_imbalanced(clips, train, seed=0, violent_share=0.78)
    labels = np.array([clips[index].label for index in chosen])
    assert labels.sum() == 80
    assert labels.mean() == pytest.approx(0.78, abs=0.01)
    assert set(chosen) <= set(train)
    nonviolent = Counter(clips[index].group for index in chosen if not clips[index].label)
    assert sorted(nonviolent.values())[1:] == [5] * (len(nonviolent) - 1)  # except for one


@pytest.mark.parametrize(("gain", "real"), [(0.0, False), (0.01, False), (0.2, True), (-0.2, True)])
def test_gain_is_real_if_folds_agree_on_it(gain: float, real: bool) -> None:
    random = np.random.default_rng(0)
    before = random.uniform(0.6, 0.9, 25)
    after = before + gain + random.normal(0, 0.05, 25)
    found = paired_gain(before.tolist(), after.tolist())
    assert found["roc_auc"] == pytest.approx(gain, abs=0.03)
    assert found["real"] == real


def test_table_has_intervals_and_the_gain_of_each_step() -> None:
    figures = dict.fromkeys(FIGURES, 0.75)
    intervals = {"intervals": {figure: [0.5, 0.875] for figure in FIGURES}}
    baseline = {"name": "none", "streams": ["rgb"], **figures, **intervals}
    step = {**baseline, "name": "+ focal loss", "gain": {"roc_auc": 0.012, "real": False}}
    *_, first, second = as_markdown({"rows": [baseline, step]}).splitlines()
    assert first == "| none (rgb) |" + " 0.75 (0.50–0.88) |" * 4 + "  |"
    assert second.startswith("| + focal loss (rgb) |")
    assert second.endswith("| +0.012, n.s. |")
