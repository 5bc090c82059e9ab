import json
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.experiments.grid import read_grid


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
        ("[1, 2]", "is not a JSON object"),
        ("{}", "is not a JSON object"),
        ('{"dropout": 0.5}', r"dropout 0\.5 is not a list"),
        ('{"dropout": []}', r"dropout \[\] is not a list"),
        ('{"dropot": [0.5]}', "'dropot' is not a setting"),
        ('{"batch-size": [1], "batch_size": [2]}', "batch_size is given twice"),
        ('{"dropout": [0.1, "0.5"]}', r'dropout "0\.5": is not of type float'),
        ('{"l2": [Infinity]}', "l2 Infinity: is not of type float"),
        ('{"dropout": [true]}', "dropout true: is not of type float"),
        ('{"dropout": [NaN]}', "dropout NaN: is not of type float"),
        ('{"dropout": [null]}', "dropout null: is not of type float"),
        ('{"dropout": [1.5]}', r"dropout 1\.5: must be at least 0 and below 1"),
        ('{"batch-size": [8.0]}', r"batch_size 8\.0: is not of type int"),
        ('{"units": [true]}', "units true: is not of type int"),
        ('{"hard_mining": [1]}', "hard_mining 1: is not of type bool"),
        ('{"head": ["gru"]}', 'head "gru": is not one of .*mean'),
        ('{"augment": [["blur"]]}', r"augment \[\"blur\"\]: .*is not one of"),
        ('{"streams": [["rgb"]]}', "streams cannot vary in a grid"),
        ('{"unlabeled": ["/clips"]}', "unlabeled cannot vary in a grid"),
        ('{"folds": [1, 5]}', "folds cannot vary in a grid"),  # scores do not depend on it
        ('{"select": ["last"]}', "select cannot vary in a grid"),
        ('{"augment": ["noise"]}', 'augment "noise": is not of type tuple'),
        ('{"class_weights": [[1]]}', r"class_weights \[1\]: is not of type tuple"),
        ('{"class_weights": [[1, 0]]}', r"class_weights \[1, 0\]: must both be above 0"),
        ('{"class_weights": [[1, "a"]]}', r'class_weights \[1, "a"\]: is not of type'),
    ],
)
def test_wrong_grid_is_reported(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"grid\.json.*{words}"):
        read_grid(path)


def test_missing_grid_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        read_grid(tmp_path / "gone.json")
