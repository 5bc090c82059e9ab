"""What the report's page shows of the files of a run."""

import csv
import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.splits import count_by_split, write_splits
from violence_detection.errors import RunError, UserError
from violence_detection.evaluation.metrics import evaluate
from violence_detection.reporting.page import name_parts, read_run, write_report
from violence_detection.runs.results import write_predictions
from violence_detection.runs.usage import usage
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import read_json, write_csv, write_json

FRAMES = 4
STARTED = "2026-01-02T03:04:05+00:00"
THRESHOLD = 0.45
Make = Callable[..., Path]


def write_run(
    folder: Path,
    dataset: Path,
    settings: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    split: str = "test",
    wrong: int = 1,
    frames: int = FRAMES,
) -> Path:
    """Write the files of a finished run on the clips of `dataset`; return its folder.

    Of each class, `wrong` clips get the other class's verdict; of the frames, the first has the
    most attention.
    """
    folder.mkdir(parents=True)
    given = Settings().replace(dataset_path=dataset, checkpoint_dir=folder, frames=frames)
    clips = find_clips(dataset, given.seed)
    write_splits(clips, folder / "splits.csv")
    tested = [clip for clip in clips if clip.split == split]
    probabilities = made_up_probabilities(tested, wrong)
    labels = np.array([clip.label for clip in tested])
    groups = [clip.group_key for clip in tested]
    figures = {
        name: evaluate(labels, probabilities, threshold, groups, seed=0)
        for name, threshold in {
            "evaluation": THRESHOLD,
            "evaluation_at_0.5": 0.5,
            "evaluation_uncalibrated": 0.5,
        }.items()
    }
    weights = np.tile(np.arange(frames, 0, -1) / np.arange(frames + 1).sum(), (len(tested), 1))
    write_predictions(tested, probabilities, THRESHOLD, weights, folder / "predictions.csv")
    columns = ("epoch", "time", "loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc")
    columns += ("learning_rate", "seconds", "clips_per_second", "cpu_utilization", "memory_mb")
    epochs = [
        (1, STARTED, 0.5, 0.6, 0.65, 0.6, 0.5, 0.55, 0.0005, 2.5, 99, 40, 512),
        (2, STARTED, 0.4, 0.7, 0.75, 0.5, 0.875, 0.8, 0.001, 2.5, 99, 60, 600),
        (3, STARTED, 0.3, 0.8, 0.85, 0.7, 0.75, 0.7, 0.0, 2.5, 99, "", ""),
    ]
    write_csv(folder / "training_history.csv", columns, epochs)
    write_json(
        folder / "training_config.json",
        {
            "settings": given.as_json() | (settings or {}),
            "bad_clips": {},
            "devices": ["/device:CPU:0 (some processor)"],
            "precision": "bfloat16",
            "versions": {"python": "3.11.9", "tensorflow": None},
            "git_commit": "0123456789abcdef",
            "started": STARTED,
        },
    )
    write_json(
        folder / "training_results.json",
        {
            "best_epoch": 2,
            "epochs_trained": 3,
            "stopped_early": False,
            "evaluated_split": split,
            "threshold": THRESHOLD,
            "temperature": 1.25,
            "chosen_for": "accuracy",
            "clips": count_by_split(clips),
            **figures,
            "usage": usage(200.0, 0.25, 0.12, None),
            "seconds_by_stage": {"start": 4.0, "training": 16.0},
            **(results or {}),
        },
    )
    return folder


def made_up_probabilities(clips: list[Clip], wrong: int) -> np.ndarray:
    """Return `(clips,)` probabilities; the first `wrong` of each class get a wrong verdict."""
    place_in_class = [0, 0]
    probabilities = []
    for clip in clips:
        place = place_in_class[clip.label]
        place_in_class[clip.label] += 1
        far = 0.9 - 0.01 * place
        probabilities.append(far if (place >= wrong) == (clip.label == 1) else 1 - far)
    return np.array(probabilities)


@pytest.fixture
def make_run(tmp_path: Path, drawn_clips: Path) -> Make:
    """Return a function that writes a finished run on the drawn clips."""

    def make(name: str = "run", dataset: Path = drawn_clips, **changes: Any) -> Path:
        return write_run(tmp_path / name, dataset, **changes)

    return make


def change_results(run: Path, **changes: Any) -> None:
    """Change results; a key whose value is None is taken out."""
    path = run / "training_results.json"
    changed = read_json(path) | changes
    write_json(path, {key: value for key, value in changed.items() if value is not None})


class Page(HTMLParser):
    """A page's text, whole and by section, its elements, its lists' items, its tables' rows."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: dict[str, str] = {}
        self.items: list[str] = []
        self.rows: list[list[str]] = []
        self._section = "header"
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source"):
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs).get("id") or self._section
        if tag == "li":
            self.items.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "each element ends where it should"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if "li" in self._open:
            self.items[-1] += data
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, title: str, number: int = 0) -> list[str]:
        """Return the cells of a row with that title, by default the first."""
        found = [row[1:] for row in self.rows if row and plain(row[0]) == title]
        return [plain(cell) for cell in found[number]]


def plain(text: str) -> str:
    return " ".join(text.split())


def page_of(*runs: Path) -> Page:
    path = runs[0] / "page.html"
    write_report(runs, path)
    return Page(path)


def shown(figures: dict[str, Any], name: str) -> str:
    interval = figures["intervals"][name]
    spread = f" {interval[0]:.3f}–{interval[1]:.3f}" if interval else ""
    return f"{figures[name]:.3f}{spread}"


@pytest.fixture(scope="module")
def usual(
    drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Page, Path]:
    """Return the results of a run of which nothing is wrong, its page and its folder."""
    run = write_run(tmp_path_factory.mktemp("usual") / "run", drawn_clips)
    return read_json(run / "training_results.json"), page_of(run), run


MEMBER = {"accuracy": 0.625, "roc_auc": 0.7, "intervals": {"accuracy": None, "roc_auc": (0.6, 0.8)}}
LEAK = {"clip": "train/violent/violent0.mp4", "repeated": "test/violent/violent1.mp4"}


@pytest.fixture(scope="module")
def troubled(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return the page of a run whose data and weights are in a bad state."""
    bad = [
        {"clip": f"train/violent/bad{n}.mp4", "split": "train", "reason": "the file is <0>"}
        for n in range(300)
    ]
    results = {
        "untrained_vgg19": True,
        "leakage": [{**LEAK, "similarity": 0.9987, "reason": "near duplicate"}],
        "bad_clips": bad,
        "one_file_under_both_labels": [["train/violent/a.mp4", "train/nonviolent/b.mp4"]],
        "static_clips": ["val/violent/still.mp4"],
        "groups_on_two_sides": {"camera 1": ["train", "test"]},
        "members_at_0.5": [MEMBER],
        "pseudo_labels": [{"unlabeled": 50, "taken": {"nonviolent": 12, "violent": 1}}],
    }
    settings = {"mlflow": "https://user:secret@host/path"}
    folder = tmp_path_factory.mktemp("troubled") / "run"
    return page_of(write_run(folder, drawn_clips, settings, results, split="val", wrong=0))


def test_page_has_its_sections_and_shows_the_figures_of_the_results(
    usual: tuple[dict[str, Any], Page, Path],
) -> None:
    results, page, _ = usual
    assert [section.get("id") for section in page.of("section")] == [
        *("learning", "verdicts", "probabilities", "classes", "clips", "data", "run")
    ]
    assert len(page.of("h1")) == 1
    assert page.row("accuracy") == ["0.700", "0.875"]  # of the best epoch
    chosen, at_half = results["evaluation"], results["evaluation_at_0.5"]
    assert page.row("accuracy", 1) == [shown(chosen, "accuracy"), shown(at_half, "accuracy")]
    for title, name in (
        *(("precision (violent)", "precision"), ("F1 (violent)", "f1")),
        *(("ROC-AUC", "roc_auc"), ("nonviolent clips left alone", "nonviolent_accuracy")),
    ):
        number = int(name == "roc_auc")  # the best epoch has one, too
        assert page.row(title, number) == [shown(chosen, name), shown(at_half, name)]
    uncalibrated = results["evaluation_uncalibrated"]
    assert page.row("Brier score") == [shown(chosen, "brier"), shown(uncalibrated, "brier")]
    header = plain(page.sections["header"])
    assert "Finds 75 of 100 violent clips; of 100 nonviolent ones it calls 25 violent." in header
    assert "Counted: 3 of 4 and 1 of 4 test clips, at threshold 0.450" in header
    assert page.row("training clips") == ["6", "6"]
    assert page.row("precision") == ["0.750", "0.750"]
    assert "Nothing was found" in page.sections["data"]
    for words in ("2026-01-02 03:04", "0.25 kWh", "0.03 at 0.12 per kWh", "some processor"):
        assert words in page.sections["run"]
    assert page.row("training") == ["16.0", ""]
    assert page.row("all CPU cores in use, mean of the epochs") == ["50 %"]
    assert page.row("memory, at most") == ["600 MB"]
    assert page.row("--frames") == ["4", "16"]
    assert page.row("tensorflow") == ["not installed"]


def test_page_is_one_file_without_script_that_forbids_all_else(
    usual: tuple[dict[str, Any], Page, Path],
) -> None:
    _, page, _ = usual
    assert page.of("html") == [{"lang": "en"}]
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    assert not page.of("script")
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert all(str(of_dark["srcset"]).startswith("data:image/png") for of_dark in page.of("source"))
    assert all(str(link["href"]).startswith("data:") for link in page.of("link"))
    assert all(image["alt"] for image in page.of("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert len(page.of("picture")) == 6
    anchors = {str(anchor["href"]) for anchor in page.of("a")}
    assert anchors == {f"#{section['id']}" for section in page.of("section")}


def test_plots_are_png_files_beside_the_page(usual: tuple[dict[str, Any], Page, Path]) -> None:
    plots = list((usual[2] / "plots").iterdir())
    assert {path.name for path in plots} == {
        *("curves.png", "confusion.png", "roc.png", "precision_recall.png"),
        *("reliability.png", "score_histogram.png"),
    }
    assert all(cv2.imread(str(path)) is not None for path in plots)


def test_strips_show_the_worst_mistakes_and_each_frames_attention(
    usual: tuple[dict[str, Any], Page, Path],
) -> None:
    _, page, _ = usual
    clips = page.sections["clips"]
    worst, doubtful, certain = (
        clips.index(title) for title in ("Worst mistakes", "Least certain", "Certain and right")
    )
    assert worst < doubtful < certain
    assert "test/violent/violent0.mp4" in clips[worst:doubtful]
    assert "test/nonviolent/nonviolent0.mp4" in clips[worst:doubtful]
    assert clips[worst:doubtful].count("wrong") == clips.count("wrong") == 2
    frames = [plain(item) for item in page.items]
    assert frames == 8 * ["1 40.0 %", "2 30.0 %", "3 20.0 %", "4 10.0 %"]
    bars = [span["style"] for span in page.of("span") if "width" in str(span.get("style"))]
    assert bars[:FRAMES] == [f"width:{share}%" for share in ("100.00", "75.00", "50.00", "25.00")]


def test_clip_that_is_gone_says_so_and_the_page_still_stands(
    make_run: Make, drawn_clips: Path, tmp_path: Path
) -> None:
    clips = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    run = make_run(dataset=clips)
    (clips / "test" / "violent" / "violent0.mp4").unlink()
    page = page_of(run)
    assert page.text.count("No frames: it is not there any more.") == 1
    assert len(page.of("img")) == 6 + 7 * FRAMES
    shutil.rmtree(clips)
    page = page_of(run)
    assert page.text.count("No frames: it is not there any more.") == 8
    assert len(page.of("img")) == 6


def test_what_makes_the_figures_worth_less_is_said_at_the_top(
    troubled: Page, usual: tuple[dict[str, Any], Page, Path]
) -> None:
    header, usual_header = (plain(page.sections["header"]) for page in (troubled, usual[1]))
    for words in (
        "VGG19 had random weights",
        "These are figures of validation clips",
        "0 of 4 validation clips",
        "1 clip of an earlier split repeated in a later one",
        "1 file under both labels",
        "resampling them cannot vary it",  # no interval of a class without a mistake
    ):
        assert words in header
        assert words not in usual_header
    assert "Only 8 groups in the test" in usual_header


def test_clips_that_repeat_each_other_are_side_by_side(troubled: Page, make_run: Make) -> None:
    for words in ("near duplicate, similarity 0.999", *LEAK.values()):
        assert words in troubled.sections["data"]
    assert [image["alt"] for image in troubled.of("img")][-8:] == 2 * [
        f"frame {number} of 4" for number in (1, 2, 3, 4)
    ]
    leaks = [{**LEAK, "similarity": None, "reason": "same group"}]
    left_out = {"leakage": leaks, "clips_left_out_for_leakage": [LEAK["clip"]]}
    page = page_of(make_run(results=left_out))
    assert "repeated in a later one" not in page.sections["header"]
    assert "Left out for it: 1 clip of the earlier splits." in plain(page.sections["data"])


def test_data_to_check_are_listed(troubled: Page) -> None:
    data = troubled.sections["data"]
    assert "Bad clips: 300" in data
    assert data.count("the file is <0>") == 200
    assert "100 more are in training_results.json" in data
    for words in ("train/nonviolent/b.mp4", "val/violent/still.mp4", "camera 1: train, test"):
        assert words in data


def test_members_of_an_ensemble_and_pseudo_labels_are_told(troubled: Page) -> None:
    assert "The ensemble’s members alone" in troubled.sections["verdicts"]
    assert troubled.row("1") == ["0.625", "0.700 0.600–0.800"]
    taken = "12 nonviolent and 1 violent ones, of 50 unlabeled clips"
    assert taken in troubled.sections["run"]


def test_password_of_a_server_is_not_passed_on(troubled: Page) -> None:
    assert "https://…@host/path" in troubled.text
    assert "secret" not in troubled.text


def test_run_of_an_earlier_version_tells_what_is_not_known(make_run: Make) -> None:
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
        "did not record it",
        "12.5 s; energy and cost were not recorded",
        "Where the time went was not recorded",
        "date not known",
    ):
        assert words in page.text
    assert "% of the attention" not in page.text
    assert len(page.of("img")) == 6 + 8 * FRAMES
    assert "groups in the test" not in page.sections["header"]  # 30 are not few


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such folder"),
        (lambda run: (run / "training_config.json").unlink(), "holds no run"),
        (lambda run: (run / "training_results.json").unlink(), "is not finished"),
        (lambda run: (run / "training_results.json").write_text("{}"), "not what this program"),
        (lambda run: change_results(run, evaluation=None), "says nothing of evaluation: it is of"),
        (lambda run: (run / "predictions.csv").unlink(), "predictions.csv cannot be read"),
        (lambda run: (run / "training_history.csv").write_text("epoch\nx\n"), "line 2, is damaged"),
        (lambda run: (run / "splits.csv").write_text("clip\na\n"), "splits.csv, line 2, is damag"),
        (lambda run: change_results(run, epochs_trained=9), "has 3 rows, .* tells of 9"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    make_run: Make, damage: Callable[[Path], None], message: str
) -> None:
    run = make_run()
    damage(run)
    with pytest.raises(UserError, match=message):
        read_run(run)


def test_page_that_cannot_be_written_is_one_error_and_the_earlier_one_stays(
    make_run: Make, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"nowhere/page\.html cannot be written"):
        write_report([make_run()], tmp_path / "nowhere" / "page.html")


HOSTILE_NAMES = (
    "<script>alert(1)</script>.mp4",
    '"><img src=x onerror=alert(2)>.mp4',
    "'\"&amp;{{ 7 * 7 }}{% raw %}</style><b>.mp4",
    "x" * 200 + ".mp4",
    "שלום עליכם.mp4",
    "🥊 👨\u200d👩\u200d👧.mp4",
    "two  spaces, a\nline and a\ttab.mp4",
    "turned \u202e4pm.evil.mp4",
    os.fsdecode(b"caf\xe9.mp4"),
)


def make_hostile(parent: Path, drawn_clips: Path) -> Path:
    """Return a folder of clips: it, its groups and the clips of its test have hostile names."""
    folder = parent / '<b id="evil">clips & "quotes"'
    shutil.copytree(drawn_clips, folder)
    for number, name in enumerate(HOSTILE_NAMES):
        class_name = CLASS_NAMES[number % 2]
        path = folder / "test" / class_name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn_clips / "test" / class_name / f"{class_name}1.mp4", path)
    groups = [
        (f"test/violent/{name}", "<i>group</i>")
        for name in (HOSTILE_NAMES[1], HOSTILE_NAMES[3], HOSTILE_NAMES[5])
    ]
    write_csv(folder / "groups.csv", ("clip", "group"), groups)
    return folder


def hostile_results(dataset: Path) -> dict[str, Any]:
    """Return results that name every clip of the test everywhere that a name can be."""
    names = [clip.name for clip in find_clips(dataset, 0) if clip.split == "test"]
    leak = {"similarity": None, "reason": "same group <b>"}
    return {
        "leakage": [{"clip": a, "repeated": b, **leak} for a, b in pairwise(names)],
        "bad_clips": [{"clip": name, "split": "test", "reason": name} for name in names],
        "one_file_under_both_labels": [names],
        "static_clips": names,
        "clips_left_out_for_leakage": names,
        "groups_on_two_sides": {name: ["train", "test"] for name in names},
    }


def spelt_out(name: str) -> str:
    """Return a hostile name as the page is to show it."""
    for character, spelt in {
        "\n": "\\n",
        "\t": "\\t",
        "\u202e": "\\u202e",
        "\udce9": "\\xe9",
    }.items():
        name = name.replace(character, spelt)
    return name


def test_hostile_names_are_shown_literally_and_are_nothing_but_text(
    make_run: Make, drawn_clips: Path, tmp_path: Path
) -> None:
    hostile_clips = make_hostile(tmp_path, drawn_clips)
    results = hostile_results(hostile_clips)
    settings = {"vgg19_weights": HOSTILE_NAMES[1]}
    run = make_run(HOSTILE_NAMES[5], hostile_clips, settings=settings, results=results, wrong=9)
    page = page_of(run)
    for name in HOSTILE_NAMES:
        assert page.text.count(spelt_out(name)) >= 5, name
    assert '<b id="evil">clips & "quotes"' in page.sections["header"]
    assert "<i>group</i>" in page.sections["clips"]
    assert not page.of("script")
    assert all("style" in tick for tick in page.of("i"))
    assert not [element for element in page.elements if element[1].get("id") == "evil"]
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "49" not in page.sections["data"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plain name.mp4", [("plain name.mp4", False)]),
        ("a\udcffb", [("a", False), ("\\xff", True), ("b", False)]),
        ("\x1b[31m", [("\\x1b", True), ("[31m", False)]),
        ("\u2066x\u2069", [("\\u2066", True), ("x", False), ("\\u2069", True)]),
        ("👨\u200d👧", [("👨\u200d👧", False)]),
        ("", []),
    ],
)
def test_what_would_not_be_seen_of_a_name_is_spelt_out(
    name: str, parts: list[tuple[str, bool]]
) -> None:
    assert name_parts(name) == parts


def test_runs_side_by_side_tell_their_differences_and_whether_they_are_chance(
    make_run: Make,
) -> None:
    first = make_run("plain", wrong=2)
    second = make_run("other", settings={"head": "mean", "epochs": 7, "debug": True}, wrong=0)
    page = page_of(first, second)
    header = plain(page.sections["header"])
    assert "other is 50.0 points better than plain." in header
    assert "Accuracy 1.000 against 0.500 on the 8 clips that both were tested on" in header
    assert "Larger than chance: the 95% interval over groups leaves out 0." in header
    assert "(only the former is right on 4, only the latter on 0)" in header
    assert page.row("--head") == ["attention-lstm", "mean"]
    assert page.row("--epochs") == ["100", "7"]
    assert "--debug" not in page.sections["settings"]
    figures = [read_json(run / "training_results.json")["evaluation"] for run in (first, second)]
    assert page.row("accuracy") == [shown(of_run, "accuracy") for of_run in figures]
    assert page.row("time, energy and cost")[0].startswith("3.3 min, 0.25 kWh")
    assert len(page.of("picture")) == 12
    assert len([details for details in page.of("details") if details.get("class") == "run"]) == 2
    assert not (first / "plots").exists()


def test_runs_of_one_name_are_told_apart_and_equal_ones_are_not_called_better(
    make_run: Make,
) -> None:
    page = page_of(make_run("a/checkpoints"), make_run("b/checkpoints"))
    assert "b/checkpoints is as often right as a/checkpoints." in plain(page.text)
    assert "None of those that decide the result." in page.sections["settings"]
