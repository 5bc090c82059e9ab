"""The page of a watcher that watches, used in a browser."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.browser import FAULTS, SIZES, launched, needs_browser
from tests.cameras.streams import cameras
from tests.commands.test_watch import watching
from tests.waiting import wait_until
from violence_detection.clips.manifest import read_manifest

SETTINGS = """
events = "{folder}/events"
[clips]
before = 1
after = 1
[alarm]
cool-down = 1000
[defaults]
window = 1
[page]
port = 0
token = "s3cret"
[[camera]]
name = "yard"
source = "{address}/short"
threshold = 0.0
[[camera]]
name = "gate"
source = "{address}/moving"
threshold = 1.0
mask = [[[0, 0], [0.5, 0], [0.5, 0.5]]]
"""


def address_in(log: Path) -> str | None:
    found = re.search(r"page: (http\S+)", log.read_text()) if log.exists() else None
    return found and found[1]


def rows_of(folder: Path) -> dict[str | None, int]:
    path = folder / "events" / "feedback" / "feedback.csv"
    return {row.group: row.label for row in read_manifest(path)} if path.exists() else {}


@needs_browser
@pytest.mark.slow
def test_alarms_are_shown_and_labelled(trained: Path, tmp_path: Path) -> None:
    with cameras() as source, launched() as browser:
        settings = SETTINGS.format(folder=tmp_path, address=source)
        (tmp_path / "cameras.toml").write_text(settings)
        with watching(trained / "run", tmp_path) as process:
            wait_until(lambda: address_in(tmp_path / "log") is not None, 90)
            page = browser.new_page()
            faults: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(str(address_in(tmp_path / "log")))
            use(page, tmp_path)
            look_at_all_sizes(page, faults)
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
    assert faults == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def use(page: Any, folder: Path) -> None:
    page.get_by_label("Access token").fill("wrong")
    page.get_by_role("button", name="Show the cameras").click()
    page.get_by_text("Wrong access token.").wait_for()
    page.get_by_label("Access token").fill("s3cret")
    page.get_by_role("button", name="Show the cameras").click()
    gate = page.locator(".camera", has_text="gate")
    gate.get_by_text("Live, probability of violence").wait_for(timeout=60_000)
    gate.get_by_alt_text("Last picture of gate").wait_for()
    assert gate.locator(".mask polygon").count() == 1
    # The first camera is gone after two seconds: its alarm is over.
    event = page.locator(".event-card", has_text="yard")
    event.first.wait_for(timeout=60_000)
    event.first.get_by_alt_text("yard at the event").wait_for()
    event.first.get_by_role("button", name="False alarm").click()
    event.first.get_by_text("kept as an example without violence").wait_for()
    assert rows_of(folder) == {"yard": 0}
    event.first.get_by_role("button", name="Violent").click()
    event.first.get_by_text("Kept as an example of violence").wait_for()
    assert rows_of(folder) == {"yard": 1}
    event.first.get_by_role("button", name="Violent").click()
    wait_until(lambda: rows_of(folder) == {}, 10)
    # Motion JPEG is nothing that browsers play: they offer the file.
    event.first.get_by_role("button", name="Play").click()
    event.first.get_by_role("link", name="download the clip").wait_for()
    # What was no alarm is an example, too.
    wait_until(lambda: list((folder / "events" / ".recent" / "gate").glob("*.nut")) != [], 30)
    gate.get_by_role("button", name="Missed something").click()
    page.wait_for_timeout(2500)  # the form stays open while the page is refreshed
    gate.get_by_role("button", name="Keep as violent").click()
    page.locator(".event-card", has_text="added by hand").wait_for(timeout=20_000)
    assert rows_of(folder) == {"gate": 1}


def look_at_all_sizes(page: Any, faults: list[str]) -> None:
    for size in SIZES.values():
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(100)
        faults += page.evaluate(FAULTS)
