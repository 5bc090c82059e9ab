from datetime import time
from pathlib import Path

import pytest

from violence_detection.cameras.settings import read_cameras
from violence_detection.errors import UserError

CAMERA = '[[camera]]\nname = "yard"\nsource = "rtsp://me:secret@camera/1"\n'
WHOLE = """
events = "alarms"
frozen = 30
[clips]
before = 3
keep-gb = 0.5
[alarm]
windows = "3 of 5"
quiet = "22:00-06:00"
[defaults]
window = 4
threshold = 0.7
[[camera]]
name = "yard"
source = "rtsp://camera/1"
mask = [[[0, 0], [0.5, 0], [0.5, 0.25]]]
[[camera]]
name = "gate"
source = 0
stride = 1
threshold = 0.9
schedule = ["mon-fri 18:00-06:00", "sat,sun 00:00-23:59"]
alarm = {cool-down = 5}
[[receiver]]
kind = "mqtt"
host = "broker"
tls = true
[[receiver]]
kind = "webhook"
url = "https://me:secret@server/path"
"""


def read(folder: Path, content: str) -> object:
    path = folder / "cameras.toml"
    path.write_text(content)
    return read_cameras(path)


def test_defaults_are_those_of_all_cameras_and_a_camera_has_its_own(tmp_path: Path) -> None:
    settings = read(tmp_path, WHOLE)
    yard, gate = settings.cameras
    assert (settings.events, settings.frozen) == (Path("alarms"), 30)
    assert (settings.clips.before, settings.clips.after, settings.clips.keep_gb) == (3, 5, 0.5)
    assert (yard.window, yard.stride, yard.threshold) == (4, 2, 0.7)
    assert (gate.window, gate.stride, gate.threshold) == (4, 1, 0.9)
    assert yard.mask == (((0, 0), (0.5, 0), (0.5, 0.25)),)
    assert (yard.alarm.windows, yard.alarm.of, yard.alarm.cool_down) == (3, 5, 60)
    assert (gate.alarm.windows, gate.alarm.cool_down) == (3, 5)
    assert yard.alarm.quiet[0].start == time(22)
    assert [each.name for each in settings.receivers] == ["mqtt broker", "webhook server"]
    assert settings.receivers[0].values == {"host": "broker", "tls": True}
    assert (gate.source.kind, len(gate.schedule)) == ("camera", 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["no [[camera]]"]),
        ("camera = 1", ["no [[camera]]"]),
        ("[[camera]]\n", ["camera 1", "name is missing"]),
        ('[[camera]]\nname = "yard"\n', ["'yard'", "source is missing"]),
        (CAMERA + CAMERA, ["two cameras", "yard"]),
        (CAMERA + "treshold = 0.5", ["treshold is unknown", "threshold"]),
        (CAMERA + "threshold = 2", ["'yard'", "threshold = 2", "from 0 to 1"]),
        (CAMERA + 'threshold = "high"', ["threshold", "must be a number"]),
        (CAMERA + "window = 1\nstride = 2", ["'yard'", "--stride 2"]),
        (CAMERA + 'schedule = "at night"', ["schedule", "22:00-06:00"]),
        (CAMERA + "mask = [[[0, 0], [1, 2], [1, 1]]]", ["mask", "from 0 to 1"]),
        (CAMERA + 'alarm = {windows = "5 of 3"}', ["windows", "3 of 5"]),
        (CAMERA.replace("yard", "a/b"), ["name", "a folder"]),
        (CAMERA.replace("rtsp://me:secret@camera/1", "ftp://x"), ["ftp://", "must start with"]),
        ("[clips]\nkeep-gb = -1\n" + CAMERA, ["clips", "keep-gb"]),
        ("event = 1\n" + CAMERA, ["event is unknown", "events"]),
        (CAMERA + "[[receiver]]\n", ["receiver 1", "kind must be one of mqtt, webhook"]),
        (CAMERA + '[[receiver]]\nkind = "mqtt"\n', ["receiver 1 (mqtt)", "host is missing"]),
        (CAMERA + '[[receiver]]\nkind = "webhook"\nurl = "secret"', ["url", "https://server"]),
        (CAMERA + '[[receiver]]\nkind = "mqtt"\nhost = "a"\nprot = 1', ["prot is unknown", "port"]),
        (CAMERA + '[[receiver]]\nkind = "mqtt"\nhost = "a"\npassword = 1', ["password: must"]),
        (CAMERA + '[page]\nhost = "0.0.0.0"', ["page", "0.0.0.0", "token", "insecure"]),
        (CAMERA + '[page]\ntoken = "my secret"', ["page", "token", "without spaces"]),
        ("[[camera", ["cannot be read"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, words: list[str]) -> None:
    with pytest.raises(UserError, match=r"cameras.toml: ") as refused:
        read(tmp_path, content)
    assert all(word in str(refused.value) for word in words)
    assert "secret" not in str(refused.value)
