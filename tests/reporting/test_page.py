"""What the report of a run shows of its files."""

import csv
from pathlib import Path

import cv2
import pytest

from tests.reporting.made_up_runs import (
    FRAMES,
    HOSTILE_NAMES,
    Make,
    Page,
    Reported,
    change_results,
    escaped,
    hostile_results,
    make_hostile,
    page_of,
    plain,
    shown,
)
from violence_detection.clips.dataset import find_clips
from violence_detection.errors import RunError
from violence_detection.reporting.page import write_report
from violence_detection.storage.files import read_json, write_csv, write_json


def test_page_has_its_sections_and_the_figures_of_the_results(usual: Reported) -> None:
    _, results, page = usual
    assert [section.get("id") for section in page.of("section")] == [
        *("training", "predictions", "probabilities", "classes", "clips", "data", "run")
    ]
    assert len(page.of("h1")) == 1
    assert page.row("accuracy") == ["8 of 12", "7 of 8"]  # of the best epoch
    chosen, at_half = results["evaluation"], results["evaluation_at_0.5"]
    assert page.row("accuracy", 1)[:2] == [shown(chosen, "accuracy"), shown(at_half, "accuracy")]
    for title, name in (
        *(("precision (violent)", "precision"), ("F1 (violent)", "f1")),
        *(("ROC-AUC", "roc_auc"), ("nonviolent clips correct", "nonviolent_accuracy")),
    ):
        number = int(name == "roc_auc")  # the best epoch has one, too
        assert page.row(title, number)[:2] == [shown(chosen, name), shown(at_half, name)]
    uncalibrated = results["evaluation_uncalibrated"]
    assert page.row("Brier score")[:2] == [shown(chosen, "brier"), shown(uncalibrated, "brier")]
    header = plain(page.sections["header"])
    assert "Detects 3 of 4 violent clips, with 1 false alarm in 4 nonviolent clips" in header
    assert "From 8 test clips, at threshold 0.450" in header
    assert page.row("training clips") == ["6", "6"]
    assert page.row("precision") == ["3 of 4", "3 of 4"]
    assert "No problems found" in page.sections["data"]
    for words in ("2026-01-02 03:04", "0.25 kWh", "0.03 at 0.12 per kWh", "some processor"):
        assert words in page.sections["run"]
    assert page.row("training") == ["16.0", ""]
    assert page.row("CPU utilization of all cores, mean") == ["50%"]
    assert page.row("memory, peak") == ["600 MB"]
    assert page.row("--frames") == ["4", "16"]
    assert page.row("tensorflow") == ["not installed"]


def test_verdict_is_first_and_what_earlier_versions_lack(make_run: Make, usual: Reported) -> None:
    sentences = ["Better than chance: so it is.", "1 label may be wrong: a <b>\u202e.mp4 (0.02)."]
    header = page_of(make_run(results={"verdict": sentences})).sections["header"]
    assert sentences[0] in header and "a <b>\\u202e.mp4 (0.02)" in header
    assert header.index(sentences[0]) < header.index("95% intervals")
    assert "Detects" not in header and "Detects" in usual.page.sections["header"]


def test_many_clips_are_shares_of_hundred_with_their_counts(make_run: Make) -> None:
    run = make_run()
    evaluation = read_json(run / "training_results.json")["evaluation"]
    evaluation |= {"confusion_matrix": [[30, 10], [4, 36]], "violent_accuracy": 0.9}
    change_results(run, evaluation=evaluation)
    header = plain(page_of(run).sections["header"])
    assert "Detects 90 of 100 violent clips, with 25 false alarms in 100 nonviolent" in header
    assert "36 of 40 and 10 of 40 test clips" in header


def test_page_is_one_file_without_script_that_forbids_all_else(usual: Reported) -> None:
    page = usual.page
    assert page.of("html") == [{"lang": "en"}]
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    assert not page.of("script")
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert all(str(link["href"]).startswith("data:") for link in page.of("link"))
    assert all(image["alt"] for image in page.of("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert page.plots() == 6
    anchors = {str(anchor["href"]) for anchor in page.of("a")}
    assert anchors == {f"#{section['id']}" for section in page.of("section")}


def test_plots_are_png_files_beside_the_page(usual: Reported) -> None:
    plots = list((usual.folder / "plots").iterdir())
    assert {path.name for path in plots} == {
        *("curves.png", "confusion.png", "roc.png", "precision_recall.png"),
        *("reliability.png", "score_histogram.png"),
    }
    assert all(cv2.imread(str(path)) is not None for path in plots)


def test_warnings_are_at_the_top(troubled: Page, usual: Reported) -> None:
    header, usual_header = (plain(page.sections["header"]) for page in (troubled, usual.page))
    for words in (
        "VGG19 had random weights",
        "metrics of validation clips",
        "with 0 false alarms in 4",
        "8 validation clips",
        "1 clip repeated in a later split",
        "1 file under both labels",
        "zero width",  # of the interval of a class without mistakes
    ):
        assert words in header
        assert words not in usual_header
    assert "Only 8 groups in the test" in usual_header


def test_members_of_an_ensemble_and_pseudo_labels_are_listed(troubled: Page) -> None:
    assert "Members of the ensemble" in troubled.sections["predictions"]
    assert troubled.row("1") == ["0.625", "0.700 0.600–0.800"]
    taken = "12 nonviolent and 1 violent, of 50 unlabeled clips"
    assert taken in troubled.sections["run"]


def test_password_of_a_server_is_hidden(troubled: Page) -> None:
    assert "https://…@host/path" in troubled.text
    assert "secret" not in troubled.text


def test_what_an_earlier_version_did_not_record_is_unknown(make_run: Make) -> None:
    run = make_run()
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("clip", "label", "probability", "verdict")
    write_csv(run / "predictions.csv", columns, [[row[name] for name in columns] for row in rows])
    evaluation = read_json(run / "training_results.json")["evaluation"] | {"groups": 30}
    change_results(run, usage=None, seconds_by_stage=None, seconds=12.5, evaluation=evaluation)
    config = read_json(run / "training_config.json")
    write_json(run / "training_config.json", {"settings": config["settings"]})
    page = page_of(run)
    for words in (
        "did not record them",
        "12.5 s; energy and cost were not recorded",
        "Time by stage was not recorded",
        "date unknown",
    ):
        assert words in page.text
    assert "% of the attention" not in page.text
    assert len(page.of("img")) == 6 + 8 * FRAMES
    assert "groups in the test" not in page.sections["header"]  # 30 are enough


def test_page_that_cannot_be_written_is_an_error(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/page\.html cannot be written"):
        write_report(make_run(), tmp_path / "nowhere" / "page.html")


def test_hostile_names_are_shown_as_text(make_run: Make, drawn_clips: Path, tmp_path: Path) -> None:
    hostile_clips = make_hostile(tmp_path, drawn_clips)
    results = hostile_results(hostile_clips)
    settings = {"vgg19_weights": HOSTILE_NAMES[1]}
    run = make_run(HOSTILE_NAMES[5], hostile_clips, settings=settings, results=results, wrong=9)
    page = page_of(run)
    for name in HOSTILE_NAMES:
        assert page.text.count(escaped(name)) >= 5, name
    assert '<b id="evil">clips & "quotes"' in page.sections["header"]
    assert "<i>group</i>" in page.sections["clips"]
    assert not page.of("script")
    assert all("style" in tick for tick in page.of("i"))
    assert not [element for element in page.elements if element[1].get("id") == "evil"]
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "49" not in page.sections["data"]


def test_clips_are_described_in_words_before_the_verdict(make_run: Make, drawn_clips: Path) -> None:
    settings = {"streams": ["rgb", "flow"]}
    run = make_run(settings=settings, results={"verdict": ["So it is."], "clip_seconds": 1.96})
    header = plain(page_of(run).sections["header"])
    words = (
        "28 clips, 50% violent, of about 2.0 s: 12 to train on, 8 to validate, 8 to test. "
        "Of each, 4 frames were seen, as they are and as optical flow."
    )
    assert header.index(words) < header.index("So it is.")
    names = [clip.name for clip in find_clips(drawn_clips, 0)]
    groups = [(name, f"camera {number % 3}") for number, name in enumerate(names)]
    with (run / "splits.csv").open() as file:
        rows = [
            (*list(row.values())[:3], dict(groups)[row["clip"]]) for row in csv.DictReader(file)
        ]
    write_csv(run / "splits.csv", ("clip", "label", "split", "group"), rows)
    change_results(run, folds=5, selection={"clips": 4, "reason": "epoch 2"})
    header = plain(page_of(run).sections["header"])
    assert "from 3 sources: 20 to train on and to validate by turns, 8 to test." in header


def test_each_figure_has_what_is_had_without_a_detector(make_run: Make) -> None:
    run = make_run()
    evaluation = read_json(run / "training_results.json")["evaluation"]
    change_results(run, evaluation=evaluation | {"confusion_matrix": [[20, 5], [15, 60]]})
    page = page_of(run)
    assert page.row("", 1)[2:] == ["always violent", "chance"]
    assert page.row("accuracy", 1)[2:] == ["0.750", "0.500"]
    assert page.row("precision (violent)")[2:] == ["0.750", "0.750"]
    assert page.row("ROC-AUC", 1)[2:] == ["0.500", "0.500"]
    assert page.row("PR-AUC")[2:] == ["0.750", "0.750"]
    assert page.row("nonviolent clips correct")[2:] == ["0.000", "0.500"]
    assert page.row("Brier score")[2:] == ["0.188", "0.250"]


def test_page_ends_with_the_verdict_and_what_to_do(make_run: Make) -> None:
    run = make_run("my run", results={"verdict": ["So it is.", "Next: more clips."]})
    end = plain(page_of(run).text).rpartition("What it amounts to")[2]
    assert end.startswith(" So it is. Next: more clips.")
    assert "worst mistakes" in end
    assert f"python predict.py --checkpoint-dir '{run}' CLIP…" in end
    flawless = make_run("flawless", wrong=0)
    assert "worst mistakes" not in plain(page_of(flawless).text).rpartition("amounts")[2]
