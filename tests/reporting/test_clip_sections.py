"""The parts of a report that are about single clips."""

import shutil
from pathlib import Path

from tests.reporting.made_up_runs import (
    FRAMES,
    LEAK,
    Make,
    Page,
    Reported,
    page_of,
    plain,
    write_suspects,
)
from violence_detection.clips.dataset import find_clips


def test_strips_show_the_worst_mistakes_and_the_attention_of_each_frame(usual: Reported) -> None:
    page = usual.page
    clips = page.sections["clips"]
    worst, uncertain, certain = (
        clips.index(title) for title in ("Worst mistakes", "Least certain", "Confident and correct")
    )
    assert worst < uncertain < certain
    assert "test/violent/violent0.mp4" in clips[worst:uncertain]
    assert "test/nonviolent/nonviolent0.mp4" in clips[worst:uncertain]
    assert clips[worst:uncertain].count("wrong") == clips.count("wrong") == 2
    frames = [text for text in map(plain, page.items) if text.endswith("%")]
    assert frames == 8 * ["1 40.0%", "2 30.0%", "3 20.0%", "4 10.0%"]
    bars = [span["style"] for span in page.of("span") if "width" in str(span.get("style"))]
    assert bars[:FRAMES] == [f"width:{share}%" for share in ("100.00", "75.00", "50.00", "25.00")]


def test_page_names_clips_that_are_missing(
    make_run: Make, drawn_clips: Path, tmp_path: Path
) -> None:
    clips = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    run = make_run(dataset=clips)
    (clips / "test" / "violent" / "violent0.mp4").unlink()
    page = page_of(run)
    assert page.text.count("No frames: the file is missing.") == 1
    assert len(page.of("img")) == 6 + 7 * FRAMES
    shutil.rmtree(clips)
    page = page_of(run)
    assert page.text.count("No frames: the file is missing.") == 8
    assert len(page.of("img")) == 6


def test_duplicates_are_side_by_side(troubled: Page, make_run: Make) -> None:
    for words in ("near duplicate, similarity 0.999", *LEAK.values()):
        assert words in troubled.sections["data"]
    assert [image["alt"] for image in troubled.of("img")][-8:] == 2 * [
        f"frame {number} of 4" for number in (1, 2, 3, 4)
    ]
    leaks = [{**LEAK, "similarity": None, "reason": "same group"}]
    left_out = {"leakage": leaks, "clips_left_out_for_leakage": [LEAK["clip"]]}
    page = page_of(make_run(results=left_out))
    assert "repeated in a later split" not in page.sections["header"]
    assert "Excluded from training: 1 clip of the earlier splits." in plain(page.sections["data"])


def test_problems_of_the_data_are_listed(troubled: Page) -> None:
    data = troubled.sections["data"]
    assert "Bad clips: 300" in data
    assert data.count("the file is <0>") == 200
    assert "Not listed here: 100; see training_results.json" in data
    for words in ("train/nonviolent/b.mp4", "val/violent/still.mp4", "camera 1: train, test"):
        assert words in data


def test_suspect_labels_are_shown_with_the_label_and_the_predicted_class(
    make_run: Make, drawn_clips: Path, usual: Reported
) -> None:
    assert "Suspect labels" not in usual.page.text  # no clip was predicted out of fold
    run = make_run()
    known = [clip for clip in find_clips(drawn_clips, 0) if clip.split != "test"]
    write_suspects(run, known)
    page = page_of(run)
    data = plain(page.sections["data"])
    assert "Of 20 clips" in data and "6 labels are contradicted" in data
    assert "labelled nonviolent predicted violent 0.900" in data
    assert "labelled violent predicted nonviolent 0.100" in data
    assert "wrong" not in data.split("Suspect labels")[1].split("own mistakes")[1]
    assert len(page.of("img")) == len(usual.page.of("img")) + 6 * FRAMES
    assert "No problems found" not in data
    write_suspects(run, known, wrong=0)
    data = plain(page_of(run).sections["data"])
    assert "None in 20 clips" in data and "No problems found" in data
