"""The page of a made-up cross-validation."""

from pathlib import Path

import numpy as np
import pytest

from tests.browser import SIZES, launched, look_at, needs_browser
from tests.reporting.made_up_runs import FRAMES, HOSTILE_NAMES, Page, escaped, make_hostile, plain
from violence_detection.clips.dataset import find_clips
from violence_detection.experiments.cross_validation import HeldOut, summarize, write_summary
from violence_detection.reporting.cross_validation_page import write_cross_validation_page
from violence_detection.reporting.finished_run import read_suspects
from violence_detection.settings.schema import Settings

WRONG = 11  # test clips whose labels the predictions contradict


@pytest.fixture(scope="module")
def page(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of clips with hostile names, with many suspect labels."""
    folder = tmp_path_factory.mktemp("validated")
    dataset = make_hostile(folder, drawn_clips)
    settings = Settings().replace(dataset_path=dataset, frames=FRAMES).as_json()
    clips = sorted(find_clips(dataset, 0), key=lambda clip: (clip.split == "test", clip.name))
    labels = np.array([clip.label for clip in clips])
    probabilities = 0.02 + 0.96 * labels
    probabilities[-WRONG:] = 1 - probabilities[-WRONG:]
    fold_of = np.arange(len(clips)) // 2 % 2
    found = [
        (held_out, HeldOut(*2 * [probabilities[held_out].tolist()], 0.5, 1.0, 9, 0.875, 0.9))
        for held_out in (np.flatnonzero(fold_of == fold) for fold in (0, 1))
    ]
    summary = summarize(clips, found, seed=0)
    write_summary(settings, clips, found, summary, folder)
    suspects = read_suspects(folder)
    assert suspects is not None
    path = folder / "page.html"
    plot = folder / "cross_validation.png"
    write_cross_validation_page(path, settings, summary, suspects, plot)
    return path


def test_metrics_and_suspects_with_both_labels_are_shown(page: Path) -> None:
    shown = Page(page)
    header = plain(shown.sections["header"])
    assert "2 folds, 37 clips" in header and "accuracy of 0.875" in header
    assert shown.row("accuracy")[0].startswith("0.7")
    suspects = plain(shown.sections["suspects"])
    assert f"Of 37 clips, each predicted by a classifier that was not trained on it, {WRONG}" in (
        suspects
    )
    both = [
        suspects.count("labelled nonviolent predicted violent 0.980"),
        suspects.count("labelled violent predicted nonviolent 0.020"),
    ]
    assert min(both) >= 3 and sum(both) == WRONG
    assert "wrong" not in suspects.split("own mistakes")[1]
    frames = [image for image in shown.of("img") if str(image["alt"]).startswith("frame")]
    assert len(frames) == WRONG * FRAMES


@needs_browser
def test_page_is_sound_on_a_desk_and_on_a_phone(page: Path) -> None:
    with launched() as browser:
        for size in SIZES.values():
            for scheme in ("light", "dark"):
                faults, text = look_at(browser, page, size, scheme)
                assert not faults
    assert sum(escaped(name) in text for name in HOSTILE_NAMES) >= 5
