"""The page of the service, used in a browser."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import FAULTS, SIZES, launched, needs_browser
from tests.clips.videos import write_doubtful_clip
from tests.serving.detectors import scripted
from tests.serving.http import LIMITS, ready, started
from tests.waiting import wait_until
from violence_detection.inference.detector import Detector
from violence_detection.serving.access import Access
from violence_detection.serving.service import Service

pytestmark = [needs_browser, pytest.mark.usefixtures("uploads_removed")]
TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def address(client: httpx.Client) -> str:
    return str(client.base_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Return an open page; errors in it, and requests to other hosts, fail the test."""
    context = browser.new_context()
    opened = context.new_page()
    faults: list[str] = []
    watch(opened, address, faults)
    opened.goto(address)
    yield opened
    assert not faults
    context.close()


def watch(page: Any, address: str, faults: list[str]) -> None:
    refusal = "Failed to load resource: the server responded with a status of 4"  # is shown
    page.on(
        "console",
        lambda message: message.text.startswith(refusal) or faults.append(message.text),
    )
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((f"{address}/", address, "data:", f"blob:{address}"))
            or faults.append(f"request: {request.url}")
        ),
    )


def clip_of(drawn_clips: Path, name: str = "violent") -> Path:
    return drawn_clips / "test" / name / f"{name}0.mp4"


def prediction(page: Any) -> str:
    """Wait for a result, or an error; return the prediction that is shown."""
    page.wait_for_selector("#result:visible, #error:visible", timeout=60_000)
    return page.inner_text("#prediction")


def announced(page: Any) -> str:
    """Return what a screen reader has announced last."""
    return page.inner_text("[role=status]")


def test_chosen_clip_is_predicted_and_its_frames_are_shown(
    page: Any, service: Service, drawn_clips: Path
) -> None:
    (expected,) = service.detector.predict_clips([clip_of(drawn_clips)])
    page.set_input_files("#file", clip_of(drawn_clips))
    assert prediction(page).lower() == ("violent" if expected.violent else "nonviolent")
    probability = f"{100 * expected.probability:.1f}%"
    assert probability in page.inner_text("#summary")
    assert page.locator("#strip li").count() == service.detector.frames
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 50)")
    shown = [caption.split() for caption in page.locator("#strip figcaption").all_inner_texts()]
    assert [float(words[0]) for words in shown] == pytest.approx(expected.times, abs=0.006)
    weights = [float(words[2].rstrip("%")) / 100 for words in shown]
    assert weights == pytest.approx(expected.attention, abs=0.0006)
    heaviest = weights.index(max(weights))
    assert "largest" in page.locator("#strip li").nth(heaviest).get_attribute("class")
    assert probability in announced(page)
    assert page.locator("#over-time").is_hidden()


@pytest.mark.parametrize("mode", ["clip", "timeline"])
def test_clip_that_tells_little_has_a_warning(page: Any, tmp_path: Path, mode: str) -> None:
    page.check(f"input[value={mode}]")
    page.set_input_files("#file", write_doubtful_clip(tmp_path / "clip.mp4", "still"))
    prediction(page)
    assert page.locator("#warnings p").all_inner_texts() == [
        "Nothing moves in it: its frames are all the same."
    ]
    assert "Nothing moves in it" in announced(page)


def test_dropped_clip_is_predicted(page: Any, drawn_clips: Path) -> None:
    content = base64.b64encode(clip_of(drawn_clips, "nonviolent").read_bytes()).decode()
    transfer = page.evaluate_handle(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "a.mp4", { type: "video/mp4" }));
          return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    assert "over" in page.get_attribute("#drop", "class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert prediction(page).lower() in ("violent", "nonviolent")
    assert page.get_attribute("#drop", "class") == "drop"


def test_upload_shows_its_progress_and_can_be_cancelled(
    page: Any,
    service: Service,
    uploads: Path,
) -> None:
    session = page.context.new_cdp_session(page)
    slowly = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2e5}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", slowly)
    clip = {"name": "a.mp4", "mimeType": "", "buffer": b"\0\0\0\x20ftypisom" + bytes(1_000_000)}
    page.set_input_files("#file", clip)
    page.locator("#stage", has_text=re.compile(r"Uploading: [2-8]\d%")).wait_for()
    assert 0 < page.evaluate("document.getElementById('progress').value") < 100
    assert announced(page) == "Uploading"
    page.focus("#cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#busy", state="hidden")
    assert announced(page) == "Cancelled"
    assert page.evaluate("document.activeElement.id") == "again"
    wait_until(lambda: service.queue.slots_taken == 0)
    wait_until(lambda: list(uploads.iterdir()) == [])


def test_long_clip_is_analyzed_over_time(
    page: Any,
    service: Service,
    long_clip: Path,
) -> None:
    page.check("input[value=timeline]")
    page.set_input_files("#file", long_clip)
    assert prediction(page) == "Violent"
    assert page.locator("#strip").is_hidden()
    points = page.get_attribute("#timeline .line", "points").split()
    assert len(points) > 3
    rows = page.locator("#events tbody tr").count()
    assert rows == page.locator("#timeline .event").count() > 0
    assert f"{rows} violent event" in announced(page)
    assert f"{len(points)} windows over 6.0 s" in page.inner_text("#timeline-caption")


def test_several_clips_are_listed_with_their_results(page: Any, drawn_clips: Path) -> None:
    names = ("violent", "nonviolent")
    odd = {"name": "odd.mp4", "mimeType": "", "buffer": b"hello"}
    files = [
        {"name": f"{name}.mp4", "mimeType": "", "buffer": clip_of(drawn_clips, name).read_bytes()}
        for name in names
    ]
    page.set_input_files("#file", [files[0], odd, files[1]])
    page.locator("#clips tr", has_text="nonviolent.mp4").get_by_text("%").wait_for(timeout=60_000)
    rows = page.locator("#clips tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["violent.mp4", "odd.mp4", "nonviolent.mp4"]
    assert "ot a video" in rows[1]
    page.get_by_role("button", name="violent.mp4", exact=True).click()
    assert rows[0].split()[1].rstrip(",") == page.inner_text("#prediction")


def test_same_clip_can_be_chosen_again_and_its_json_copied(
    page: Any, address: str, drawn_clips: Path
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    for _ in range(2):
        with page.expect_response(re.compile("predict")), page.expect_file_chooser() as chooser:
            page.click("#file")
            chooser.value.set_files(clip_of(drawn_clips))
        assert prediction(page)
    page.get_by_text("JSON", exact=True).click()
    page.click("#copy")
    page.get_by_role("button", name="Copied").wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert f"{100 * copied['probability']:.1f}%" in page.inner_text("#summary")
    assert "image" not in copied["frames"][0]


def test_example_can_be_tried_without_a_clip(page: Any) -> None:
    page.click("#example")
    assert prediction(page) in ("Violent", "Nonviolent")


def test_clip_waits_for_a_model_that_is_loading(
    browser: Any, detector: Detector, uploads: Path, drawn_clips: Path
) -> None:
    loading = scripted(detector)
    loading.released.clear()
    with started(Service(loading, uploads, LIMITS)) as client:
        page = browser.new_context().new_page()
        page.goto(str(client.base_url))
        page.set_input_files("#file", clip_of(drawn_clips))
        page.locator("#stage", has_text="the server is starting up").wait_for()
        loading.released.set()
        assert prediction(page)
        assert page.locator("#result").is_visible()
        page.context.close()


@pytest.mark.parametrize("content", [b"hello", b"\0\0\0\x20ftypisom" + bytes(999)])
def test_refused_clip_has_its_reason(page: Any, content: bytes) -> None:
    clip = {"name": "<img src=x onerror=alert(1)>.mp4", "mimeType": "video/mp4", "buffer": content}
    page.set_input_files("#file", clip)
    page.wait_for_selector("#error:visible")
    error = page.inner_text("[role=alert]")
    assert "ot a video" in error
    assert page.locator("#result").is_hidden()
    assert page.is_enabled("#again")


def test_too_large_a_clip_is_not_sent(page: Any) -> None:
    clip = {"name": "a.mp4", "mimeType": "video/mp4", "buffer": bytes(2**20 + 1)}
    requests: list[Any] = []
    page.on("request", lambda request: request.method == "POST" and requests.append(request))
    page.set_input_files("#file", clip)
    page.wait_for_selector("#error:visible")
    assert "more than the 1 MB allowed" in page.inner_text("#error")
    assert not requests


def test_page_works_with_the_keyboard_alone(page: Any, drawn_clips: Path) -> None:
    # From here on, so that it is long since in force when the key is pressed: it is not waited for.
    page.on("filechooser", lambda chooser: None)
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline not in ("none", ""), reached[-1]
    assert reached[:2] == ["mode", "file"]  # and a link
    page.focus("#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(clip_of(drawn_clips))
    assert prediction(page)
    page.focus("#again")
    with page.expect_response(re.compile("predict")):
        page.keyboard.press("Enter")
    page.wait_for_selector("#result:visible")


def test_everything_has_a_name_for_screen_readers(page: Any, drawn_clips: Path) -> None:
    page.set_input_files("#file", clip_of(drawn_clips))
    prediction(page)
    tree = page.locator("body").aria_snapshot()
    for role in ("button", "radio", "img", "link", "heading"):
        names = re.findall(rf"- '?{role}(.*)", tree)
        assert names, role
        assert all(re.match(r' "[^"]+"', name) for name in names), role
    assert page.get_by_label("or choose files").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title()


def test_token_is_required_and_sent(
    browser: Any,
    detector: Detector,
    uploads: Path,
    drawn_clips: Path,
) -> None:
    with ready(Service(detector, uploads, LIMITS, Access(TOKEN))) as client:
        context = browser.new_context()
        page = context.new_page()
        page.goto(str(client.base_url))
        page.set_input_files("#file", clip_of(drawn_clips))
        page.wait_for_selector("#error:visible")
        assert "access token" in page.inner_text("#error")
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", "wrong")
        page.click("#again")
        page.locator("#error", has_text="Wrong access token").wait_for()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        assert prediction(page)
        assert page.locator("#result").is_visible()
        context.close()


@pytest.mark.parametrize(("size", "scheme"), [("desk", "dark"), ("phone", "light")])
def test_page_has_no_visible_fault_on_desk_and_phone(
    browser: Any,
    address: str,
    drawn_clips: Path,
    long_clip: Path,
    size: str,
    scheme: str,
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    watch(page, address, faults)
    page.goto(address)
    faults += page.evaluate(FAULTS)
    page.set_input_files("#file", clip_of(drawn_clips))
    prediction(page)
    faults += page.evaluate(FAULTS)
    page.check("input[value=timeline]")
    page.set_input_files("#file", long_clip)
    page.wait_for_selector("#over-time:visible")
    faults += page.evaluate(FAULTS)
    assert not faults
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    context.close()
