import json
import subprocess
import sys
from pathlib import Path

import pytest

from train_rtx5000_dual_optimized import main
from violence_detection.errors import UserError
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import FIELDS

DATASET = ["--dataset-path", "/data/organized_dataset", "--vgg19-weights", "random"]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "5", "--warmup-epochs", "5"], ["--epochs 5", "--warmup-epochs 5"]),
        (["--epochs", "0", "--warmup-epochs", "0"], ["--epochs 0", "1 or more"]),
        (["--batch-size", "0"], ["--batch-size 0", "1 or more"]),
        (["--batch-size", "9", "--replicas", "2"], ["--batch-size 9", "2 replicas", "8 or 10"]),
        (["--label-smoothing", "1"], ["--label-smoothing 1", "below 1"]),
        (["--label-smoothing", "-0.1"], ["--label-smoothing -0.1"]),
        (["--dropout", "1"], ["--dropout 1", "below 1"]),
        (["--learning-rate", "0"], ["--learning-rate 0", "above"]),
        (["--focal-alpha", "1"], ["--focal-alpha 1"]),
        (["--focal-alpha", "0.5", "--no-use-focal-loss"], ["--focal-alpha"]),
        (["--class-weights", "0", "1"], ["--class-weights 0", "above 0"]),
        (["--feature-layer", "fc3"], ["--feature-layer fc3", "block5_pool"]),
        (["--vgg19-weights", "/no/such.h5"], ["/no/such.h5", "no such file"]),
        (["--replicas", "0"], ["--replicas 0"]),
        (["--streams", "none"], ["--streams", "must name a stream"]),
        (["--cached-frames", "8"], ["--cached-frames 8", "--frames 16"]),
        (["--cached-frames", "0"], ["--cached-frames 0", "1 or more"]),
        (
            ["--feature-layer", "fc2", "--feature-pooling", "top"],
            ["--feature-pooling top", "fc2", "block5_pool"],
        ),
        (["--units", "0"], ["--units 0", "1 or more"]),
        (["--find-lr", "--tune", "3"], ["--find-lr", "--tune", "one of them"]),
        (["--find-lr", "--cross-validate", "5"], ["--find-lr", "--cross-validate", "one of them"]),
        (["--cross-validate", "1"], ["--cross-validate 1", "2 or more"]),
        (["--seed", "4294967296"], ["--seed 4294967296"]),
        (["--folds", "0"], ["--folds 0", "1 or more"]),
        (["--folds", "5", "--ensemble", "3"], ["--folds 5", "--ensemble", "drop one"]),
        (["--folds", "5", "--unlabeled", "."], ["--folds 5", "--unlabeled", "drop one"]),
        (["--early-stopping-patience", "-1"], ["--early-stopping-patience -1", "0 or more"]),
        (["--window", "4"], ["--window does nothing without --weak", "give both"]),
        (["--pixels", "64"], ["--pixels does nothing without --model 3d"]),
        (["--augment", "crop"], ["--augment crop needs --model 3d"]),
        (["--backbone", "pixels"], ["backbone pixels", "--model 3d"]),
        (["--model", "3d", "--pixels", "96,64"], ["--pixels 96,64", "growing"]),
        (["--model", "3d", "--pixels", "300"], ["--pixels 300", "224"]),
        (["--model", "3d", "--backbone", "ResNet50"], ["--backbone", "--model 3d", "drop one"]),
        (["--model", "3d", "--head", "mean"], ["--head", "--model 3d"]),
        (["--model", "3d", "--weak"], ["--weak", "--model 3d"]),
        (["--model", "3d", "--augment", "mixup"], ["--augment mixup", "--model 3d"]),
        (["--model", "flow-gated", "--streams", "rgb"], ["--streams rgb", "rgb,flow"]),
        (["--ensemble", "0"], ["--ensemble 0", "1 or more"]),
        (
            ["--ensemble", "features,3d", "--model", "3d"],
            ["--ensemble features,3d", "drop --model"],
        ),
        (["--ensemble", "features,3d", "--weak"], ["--weak", "one kind of classifier"]),
        (["--ensemble", "features,3d", "--tune", "3"], ["--tune", "one kind of classifier"]),
        (
            ["--ensemble", "3d,features", "--batch-size", "10", "--replicas", "4"],
            ["--batch-size 10", "4 replicas"],
        ),
        (["--pretrain", "."], ["--pretrain", "--model 3d"]),
        (["--pretrain", "no.npz", "--model", "3d"], ["no.npz", "no such file"]),
        (["--pretrain-epochs", "3"], ["--pretrain-epochs", "--pretrain DIR"]),
        (["--pretrain", ".", "--model", "3d", "--unlabeled", "."], ["--unlabeled", "--pretrain"]),
        (["--pretrain", ".", "--model", "3d", "--tune", "3"], ["--tune", "--pretrain"]),
        (["--fusion", "late"], ["--fusion late", "several backbones"]),
        (
            ["--backbone", "vgg19,ResNet50", "--feature-layer", "fc2,last,last"],
            ["--feature-layer fc2,last,last", "names 3", "vgg19,ResNet50 are 2"],
        ),
        (["--backbone", "vgg19,vgg19", "--feature-layer", "fc2,fc3"], ["--feature-layer fc3"]),
        (["--backbone", "vgg19,ResNet50", "--fine-tune", "fc"], ["--fine-tune fc", "--backbone"]),
        (["--backbone", "vgg19,no.onnx"], ["--backbone no.onnx", "no such file"]),
        (["--weak", "--window", "0.05"], ["--window 0.05", "at least 0.1 seconds"]),
        (["--weak", "--top-share", "1.5"], ["--top-share 1.5", "at most 1"]),
        (["--weak", "--unlabeled", "."], ["--unlabeled", "--weak", "drop one"]),
        (["--weak", "--cached-frames", "32"], ["--cached-frames 32", "--weak", "drop it"]),
        (["--weak", "--augment", "mixup"], ["--augment mixup", "--weak", "noise and flip"]),
    ],
)
def test_wrong_value_is_named_with_the_way_out(
    flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DATASET, *flags]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") <= 2
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ([*DATASET, "--epochs", "many"], "--epochs"),
        ([*DATASET, "--learning-rate", "nan"], "--learning-rate"),
        ([*DATASET, "--dropot", "0.5"], "unknown flag --dropot: did you mean --dropout?"),
        ([*DATASET, "--on-bad-clip", "ignore"], "zeros"),
        ([*DATASET, "--epoch", "50"], "--epoch: did you mean --epochs?"),
        ([*DATASET, "--streams", "flow,depth"], "'depth' is not one of rgb, difference, flow"),
        ([*DATASET, "--streams", "flow,flow"], "flow,flow: a name is repeated"),
        ([*DATASET, "--augment", "mixup,rotate"], "'rotate' is not one of jitter, speed"),
        ([*DATASET, "--head", "gru"], "attention-lstm"),
        ([*DATASET, "--select", "best"], "val-accuracy"),
    ],
)
def test_flag_that_cannot_be_read_is_reported_in_one_line(
    flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_settings(flags)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert word in message
    assert message.count("\n") == 1


def test_dataset_is_required() -> None:
    with pytest.raises(UserError, match="--dataset-path"):
        parse_settings([])


@pytest.mark.parametrize(
    "line",
    [
        "--epochs 50 --batch-size 96 --mixed-precision --xla --warmup-epochs 3",
        "--epochs 150 --batch-size 64 --mixed-precision --xla --use-focal-loss "
        "--use-class-weights --label-smoothing 0.1 --warmup-epochs 10",
        "--epochs 10 --batch-size 32 --no-mixed-precision --warmup-epochs 2",
    ],
)
def test_promised_command_lines_are_understood(line: str) -> None:
    settings = parse_settings(["--dataset-path", "/data/organized_dataset", *line.split()])
    given = line.split()
    assert settings.training.epochs == int(given[given.index("--epochs") + 1])
    assert settings.devices.mixed_precision == ("--no-mixed-precision" not in given)
    assert settings.devices.xla == ("--xla" in given)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("epochs", 100),
        ("batch_size", 64),
        ("learning_rate", 0.001),
        ("warmup_epochs", 5),
        ("clipnorm", 1.0),
        ("gradient_accumulation", 1),
        ("mixed_precision", True),
        ("xla", False),
        ("use_focal_loss", True),
        ("focal_gamma", 2.0),
        ("use_class_weights", True),
        ("label_smoothing", 0.1),
        ("frames", 16),
        ("streams", ("difference", "flow")),
        ("augment", ()),
        ("head", "attention-lstm"),
        ("sampling", "shuffle"),
        ("feature_layer", "block5_pool"),
        ("feature_dtype", "float16"),
        ("resume", True),
        ("seed", 42),
        ("deterministic", False),
        ("early_stopping_patience", None),
        ("select", "auto"),
        ("folds", None),
    ],
)
def test_promised_defaults(name: str, default: object) -> None:
    assert parse_settings(DATASET).by_name()[name] == default


@pytest.mark.parametrize(
    ("flags", "clips", "patience"),
    [
        ([], 499, 0),
        ([], 500, 15),
        (["--early-stopping-patience", "3"], 8, 3),
        (["--early-stopping-patience", "0"], 5000, 0),
    ],
)
def test_few_validation_clips_do_not_stop_the_training(
    flags: list[str], clips: int, patience: int
) -> None:
    assert parse_settings([*DATASET, *flags]).training.patience(clips) == patience


@pytest.mark.parametrize(
    "name",
    ["mixed_precision", "xla", "use_focal_loss", "use_class_weights", "resume", "deterministic"],
)
def test_every_switch_has_its_twin(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    assert parse_settings([*DATASET, flag]).by_name()[name] is True
    assert parse_settings([*DATASET, flag.replace("--", "--no-")]).by_name()[name] is False


@pytest.mark.parametrize("flags", [["--xla=all"], ["--xla", "all"]])
def test_xla_of_everything(flags: list[str], tmp_path: Path) -> None:
    """On the command line, and in a file that a later command may undo."""
    assert parse_settings([*DATASET, *flags, "--epochs", "7"]).devices.xla == "all"
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(parse_settings([*DATASET, *flags]).as_json()))
    assert parse_settings(["--config", str(path)]).devices.xla == "all"
    for later, xla in (("--xla", True), ("--no-xla", False)):
        assert parse_settings(["--config", str(path), later]).devices.xla is xla


def test_fresh_is_the_other_of_resume() -> None:
    assert parse_settings([*DATASET, "--fresh"]).run.resume is False


def test_flags_given_count_in_a_demo() -> None:
    settings = parse_settings(["--demo", "--epochs", "7", "--cache-dir", "elsewhere"])
    assert (settings.training.epochs, settings.data.cache_dir) == (7, Path("elsewhere"))
    assert settings.features.vgg19_weights == "random"


def test_help_names_every_flag_without_loading_tensorflow() -> None:
    program = (
        "import sys, train_rtx5000_dual_optimized as train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'tensorflow', 'keras', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in FIELDS:
        assert "--" + name.replace("_", "-") in done.stdout


def test_config_file_holds_every_setting() -> None:
    settings = parse_settings([*DATASET, "--class-weights", "1.78", "0.57"])
    written = settings.as_json()
    assert written.keys() == FIELDS.keys()
    assert written["class_weights"] == [1.78, 0.57]
    assert written["dataset_path"] == "/data/organized_dataset"


@pytest.mark.parametrize("goal", ["accuracy", "balanced", "f1", "recall=0.95", "fpr=0.01"])
def test_threshold_goals(goal: str) -> None:
    assert parse_settings([*DATASET, "--threshold-for", goal]).test.threshold_for == goal


@pytest.mark.parametrize("goal", ["recall", "recall=2", "fpr=", "f1=0.5", "precision", "fpr=nan"])
def test_threshold_goals_that_are_none(goal: str) -> None:
    with pytest.raises(UserError, match="--threshold-for"):
        parse_settings([*DATASET, "--threshold-for", goal])


def test_one_folder_for_cache_and_checkpoints() -> None:
    with pytest.raises(UserError, match="both"):
        parse_settings([*DATASET, "--cache-dir", "a/../b", "--checkpoint-dir", "b"])


@pytest.mark.parametrize(
    ("given", "chosen"),
    [("none", ()), ("", ()), ("flip", ("flip",)), ("mixup,noise", ("mixup", "noise"))],
)
def test_names_with_commas_between_them_or_none(given: str, chosen: tuple[str, ...]) -> None:
    assert parse_settings([*DATASET, f"--augment={given}"]).training.augment == chosen


def test_as_many_frames_are_cached_as_are_used_or_more() -> None:
    assert parse_settings([*DATASET, "--frames", "8"]).features.frames_in_cache == 8
    more = parse_settings([*DATASET, "--frames", "8", "--cached-frames", "32"])
    assert (more.features.frames, more.features.frames_in_cache) == (8, 32)


def test_flags_take_precedence_over_the_config_file(tmp_path: Path) -> None:
    values = {
        "epochs": 12,
        "learning_rate": 0.02,
        "head": "mean",
        "streams": ["rgb", "flow"],
        "augment": [],
        "class_weights": [1.5, 0.5],
        "use_focal_loss": False,
        "hard_mining": True,
        "replicas": None,
    }
    path = tmp_path / "best.json"
    path.write_text(json.dumps(values))
    settings = parse_settings([*DATASET, "--config", str(path), "--epochs", "9", "--head=mean"])
    assert (settings.training.epochs, settings.training.learning_rate, settings.model.head) == (
        9,
        0.02,
        "mean",
    )
    assert (settings.features.streams, settings.training.augment) == (("rgb", "flow"), ())
    assert settings.loss.class_weights == (1.5, 0.5)
    assert (
        settings.loss.use_focal_loss,
        settings.training.hard_mining,
        settings.devices.replicas,
    ) == (False, True, None)
    switched = parse_settings([*DATASET, "--config", str(path), "--no-hard-mining"])
    assert (switched.training.hard_mining, switched.training.epochs) == (False, 12)


def test_config_file_may_name_the_dataset_and_hold_what_a_run_wrote(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(parse_settings([*DATASET, "--epochs", "7"]).as_json()))
    settings = parse_settings(["--config", str(path)])
    assert (settings.data.dataset_path, settings.training.epochs) == (
        Path("/data/organized_dataset"),
        7,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read as JSON"),
        ("{epochs: 3}", "cannot be read as JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"epoch": 3}', "'epoch' is not a setting"),
        ('{"hard_mining": 1}', "hard_mining 1: is not of type bool"),
        ('{"epochs": true}', "epochs true: is not of type int"),
        ('{"epochs": "many"}', 'epochs "many": is not of type int'),
        ('{"dropout": 2}', "dropout 2: must be"),
        ('{"xla": "some"}', 'xla "some": is not one of all'),
        ('{"xla": 1}', "xla 1: is not of type bool"),
    ],
)
def test_config_file_that_is_wrong_is_named(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.json"
    if content is not None:
        path.write_text(content)
    assert main([*DATASET, "--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.startswith("error: ")
    assert message.count("\n") <= 2


@pytest.mark.parametrize(
    ("line", "warmup", "said"),
    [
        ("--epochs 3", 1, "shortened from 5 epochs to 1"),
        ("--epochs 5", 2, "shortened from 5 epochs to 2"),
        ("--epochs 1", 0, "shortened from 5 epochs to 0"),
        ("--epochs 6", 5, ""),
        ("--demo --epochs 2", 1, "shortened from 3 epochs to 1"),
        ("--epochs 3 --warmup-epochs=2", 2, ""),
    ],
)
def test_few_epochs_shorten_the_default_warm_up(
    line: str, warmup: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parse_settings(["--dataset-path", "clips", *line.split()])
    assert settings.training.warmup_epochs == warmup
    error = capsys.readouterr().err
    assert said in error and bool(error) == bool(said)


def test_warm_up_that_was_given_is_checked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"warmup_epochs": 5}')
    for given in (["--warmup-epochs", "5"], ["--config", str(tmp_path / "config.json")]):
        with pytest.raises(UserError, match="--epochs 3 is not above --warmup-epochs 5"):
            parse_settings(["--dataset-path", "clips", "--epochs", "3", *given])
