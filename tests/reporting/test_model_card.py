"""The card of a model, as the Hub and as people read it."""

import hashlib
from pathlib import Path

import pytest
import yaml

from tests.reporting.made_up_runs import LEAK, Make, change_results, make_hostile
from violence_detection.evaluation.metrics import format_figure
from violence_detection.reporting.model_card import write_model_card
from violence_detection.storage.files import read_json


def parts(folder: Path) -> tuple[dict, str]:
    """Return the front matter and the text of a card."""
    empty, front_matter, text = (folder / "model_card.md").read_text().split("---\n", 2)
    assert not empty
    return yaml.safe_load(front_matter), text


def test_card_has_data_figures_and_checksums(make_run: Make) -> None:
    run = make_run(results={"verdict": ["Better than chance: so it is."]})
    (run / "best_model.keras").write_bytes(b"model")
    evaluation = read_json(run / "training_results.json")["evaluation"]
    day = evaluation | {"clips": 7, "accuracy": 0.5}
    change_results(run, by_subgroup={"light": {"day": day, "a|b": evaluation}})
    write_model_card(run)
    metadata, text = parts(run)
    (result,) = metadata["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == evaluation["accuracy"]
    assert result["dataset"]["split"] == "test"
    accuracy = format_figure(evaluation, "accuracy")
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert rows["| accuracy"] == f"| accuracy | {accuracy} | 0.500 | 0.500 |"
    assert rows["| train"] == "| train | 6 | 6 | 12 |"
    assert rows["| day"].startswith("| day | 7 | 8 | 4 of 8")
    assert rows["| a\\|b"].count(" | ") == 6
    assert "Better than chance: so it is." in text
    assert hashlib.sha256(b"model").hexdigest() in text
    card = read_json(run / "model_card.json")
    assert card["figures"] == evaluation
    assert card["data"]["splits"]["test"] == {"nonviolent": 4, "violent": 4, "groups": 8}


def test_hub_reads_the_figures(make_run: Make) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="requirements-hub.txt is not installed")
    run = make_run()
    write_model_card(run)
    card = hub.ModelCard.load(run / "model_card.md")
    assert card.data.library_name == "keras"
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["roc_auc"] == read_json(run / "training_results.json")["evaluation"]["roc_auc"]


def test_groups_with_most_mistakes_are_first(make_run: Make) -> None:
    run = make_run()
    lines = (run / "predictions.csv").read_text().splitlines()
    for number, line in enumerate(lines[1:], start=1):  # the first clip of each class is wrong
        clip, _, *others = line.split(",")
        group = "wrong" if clip.endswith("0.mp4") else "right"
        lines[number] = ",".join([clip, group, *others])
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    write_model_card(run)
    assert "| wrong | 2 | 0 |\n| right | 6 | 6 |\n" in parts(run)[1]


def test_limits_say_what_the_report_warns_of_and_what_rare_violence_means(make_run: Make) -> None:
    run = make_run(results={"leakage": [LEAK | {"similarity": None, "reason": "same group"}]})
    write_model_card(run)
    text = parts(run)[1]
    assert "1 clip repeated in a later split" in text
    # 3 of 4 violent clips found, 1 of 4 nonviolent ones reported.
    assert "of 100 alarms about 0.3 would be right if one clip in 1,000 were violent" in text
    flawless = make_run("flawless", wrong=0)
    write_model_card(flawless)
    assert "No false alarm in 4 nonviolent clips" in parts(flawless)[1]


def test_hostile_names_stay_in_their_cells(
    make_run: Make, drawn_clips: Path, tmp_path: Path
) -> None:
    run = make_run("run", make_hostile(tmp_path, drawn_clips))
    write_model_card(run)
    metadata, text = parts(run)
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"].startswith("<b id=")
    assert "\\<i\\>group\\</i\\>" in text
    assert "<b" not in text.replace("\\<", "")
