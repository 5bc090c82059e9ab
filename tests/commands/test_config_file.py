import json
from pathlib import Path

import pytest

from violence_detection.commands.config_file import parse_with_config
from violence_detection.commands.serve import make_parser
from violence_detection.errors import UserError


def parsed(folder: Path, values: object, *arguments: str) -> object:
    path = folder / "serve.json"
    path.write_text(json.dumps(values))
    path.chmod(0o600)
    return parse_with_config(make_parser(), ["--config", str(path), *arguments])


def test_flags_come_from_the_file_and_the_command_line_takes_precedence(tmp_path: Path) -> None:
    values = {
        "port": 9000,
        "--max-upload": 20.5,
        "cors": ["https://one", "https://two"],
        "insecure": True,
        "checkpoint-dir": "run",
        "token": "secret",
    }
    flags = parsed(tmp_path, values, "--port", "9001")
    assert (flags.port, flags.max_upload, flags.insecure) == (9001, 20.5, True)
    assert flags.cors == ["https://one", "https://two"]
    assert (flags.checkpoint_dir, flags.token) == (Path("run"), "secret")
    assert flags.max_requests == 64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prot": 9000}, "did you mean port"),
        ({"port": "many"}, "port"),
        ({"port": [1, 2]}, "port"),
        ({"insecure": "yes"}, "--insecure"),
        ({"cors": "https://one"}, "--cors"),
        ([], "not a JSON object"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, values: object, words: str) -> None:
    with pytest.raises(UserError, match=r"--config .*serve.json: ") as refused:
        parsed(tmp_path, values)
    assert words in str(refused.value)


def test_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    path.write_text('{"token": "secret"}')
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        parse_with_config(make_parser(), ["--config", str(path)])
