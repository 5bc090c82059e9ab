"""Which epoch's weights become the model, and whether they are still there when it is known."""

from pathlib import Path
from typing import Any

import pytest

from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.selection import Selection

FEW, MANY = 8, 4000  # validation clips


def epochs(*figures: tuple[float, float]) -> list[dict[str, Any]]:
    """Return a history of epochs of these validation accuracies and losses."""
    return [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss}
        for epoch, (accuracy, loss) in enumerate(figures, start=1)
    ]


LUCKY = epochs((0.5, 0.7), (0.875, 0.5), (0.75, 0.4), (0.75, 0.6))


@pytest.mark.parametrize(
    ("rule", "clips", "selected"),
    [
        ("auto", FEW, 4),  # one of eight clips more is chance
        ("auto", MANY, 2),
        ("val-accuracy", FEW, 2),
        ("val-loss", MANY, 3),
        ("last", MANY, 4),
    ],
)
def test_selected_epoch(rule: str, clips: int, selected: int) -> None:
    assert Selection(rule, 1, clips, clips).best_epoch(LUCKY) == selected


@pytest.mark.parametrize("rule", ["auto", "val-accuracy", "val-loss", "last"])
def test_no_epoch_of_the_warm_up_is_selected(rule: str) -> None:
    history = epochs((1.0, 0.1), (0.99, 0.11), (0.6, 0.5), (0.5, 0.6))
    assert Selection(rule, 2, MANY, MANY).best_epoch(history) in (3, 4)


def test_of_equal_accuracies_the_lower_loss_counts_and_then_the_earlier_epoch() -> None:
    selection = Selection("val-accuracy")
    assert selection.best_epoch(epochs((0.7, 0.4), (0.8, 0.5), (0.8, 0.3), (0.6, 0.1))) == 3
    assert selection.best_epoch(epochs((0.7, 0.4), (0.8, 0.5), (0.8, 0.5), (0.6, 0.1))) == 2


def test_last_epoch_is_kept_where_all_are_equal() -> None:
    assert Selection("auto", 1, MANY, MANY).best_epoch(epochs(*[(0.9, 0.3)] * 5)) == 5


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_uncertainty_falls_with_the_clips_but_is_never_zero(accuracy: float) -> None:
    errors = [Selection(clips=clips).uncertainty(accuracy) for clips in (4, 40, 400, 4000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_uncertainty_is_two_standard_errors() -> None:
    assert Selection(clips=10_000).uncertainty(0.8) == pytest.approx(0.008, rel=0.01)


@pytest.mark.parametrize(("rule", "words"), [("auto", "±0.27"), ("last", "--select last")])
def test_description_names_the_epoch_and_how_certain_it_is(rule: str, words: str) -> None:
    described = Selection(rule, 1, FEW, 3).describe(LUCKY)
    assert "epoch 4 of 4" in described and words in described
    assert ("8 validation clips of 3 sources" in described) == (rule == "auto")
    assert "\n" not in described  # the page and the log break the line


def finish(run: RunDirectory, history: list[dict[str, Any]]) -> None:
    for row in history:
        run.finish_epoch(
            row, {}, lambda path, epoch=row["epoch"]: path.write_text(f"weights {epoch}")
        )


def test_weights_of_the_leading_epoch_are_kept_for_the_time_when_it_is_selected(
    tmp_path: Path,
) -> None:
    """As long as the last epoch is as good but for chance, that one is the selected one."""
    history = epochs((0.5, 0.7), (0.8, 0.5), *[(0.79, 0.5)] * 4, (0.6, 0.9), (0.6, 0.9))
    with RunDirectory(tmp_path) as run:
        run.selection = Selection("auto", 1, MANY, MANY)
        run.restore({})
        finish(run, history[:6])
        assert run.best_epoch() == 6
    with RunDirectory(tmp_path) as run:
        run.selection = Selection("auto", 1, MANY, MANY)
        run.restore({})
        finish(run, history[6:])
        assert run.best_epoch() == 2
        assert run.intact_weights_after(2).read_text() == "weights 2"
        kept = sorted(path.name for path in (tmp_path / "resume").glob("*.npz"))
        assert kept == [f"epoch_00{epoch}.weights.npz" for epoch in (2, 7, 8)]


def test_weights_of_a_leading_epoch_survive_damage_to_the_one_that_took_the_lead(
    tmp_path: Path,
) -> None:
    selection = Selection("val-accuracy", 0, MANY, MANY)
    with RunDirectory(tmp_path) as run:
        run.selection = selection
        run.restore({})
        finish(run, epochs((0.8, 0.5), (0.6, 0.6), (0.7, 0.6), (0.9, 0.3)))
        run.weights_after(4).write_text("damaged")
    with RunDirectory(tmp_path) as run:
        run.selection = selection
        run.restore({})
        assert run.best_epoch() == 1
        assert run.intact_weights_after(1).read_text() == "weights 1"
