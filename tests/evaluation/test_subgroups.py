import numpy as np

from violence_detection.evaluation.metrics import evaluate
from violence_detection.evaluation.subgroups import subgroup_figures, subgroup_lines

LABELS = np.array([1, 0, 1, 0, 1, 0, 1, 0])
PROBABILITIES = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.1, 0.9, 0.9])
GROUPS = ["a", "a", "b", "b", "c", "c", "d", "e"]
LIGHT = ["night", "night", "", "day", "night", "night", "day", "day"]


def test_each_value_has_the_figures_of_its_clips() -> None:
    found = subgroup_figures(LABELS, PROBABILITIES, 0.5, GROUPS, {"light": LIGHT}, seed=0)["light"]
    assert list(found) == ["day", "night", "unknown"]
    assert {value: figures["clips"] for value, figures in found.items()} == {
        **{"day": 3, "night": 4, "unknown": 1}
    }
    chosen = np.array(LIGHT) == "night"
    groups = ["a", "a", "c", "c"]
    expected = evaluate(LABELS[chosen], PROBABILITIES[chosen], 0.5, groups, seed=0)
    assert found["night"] == expected
    assert expected["intervals"]["accuracy"] is not None
    assert found["unknown"]["roc_auc"] is None  # one clip, of one class
    lines = subgroup_lines({"light": found})
    assert lines[0] == "by light"
    assert lines[2].startswith("  night: 4 clips, 2 groups, accuracy 3 of 4 (")
