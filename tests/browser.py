"""Pages in a browser: Chromium, controlled by Playwright."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium and playwright",
)
SIZES = {"desk": (1280, 900), "phone": (390, 844)}  # pixels
# Returns what looks wrong: what sticks out, is cut off, overlaps, is too small or too faint.
FAULTS = """() => {
  const faults = [], name = (e) => `${e.tagName} ${e.className} "${e.textContent.slice(0, 60)}"`;
  const root = document.documentElement, width = root.clientWidth;
  if (root.scrollWidth > width) faults.push(`the page is ${root.scrollWidth} of ${width} wide`);
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255 <= 0.04045 ? c / 255 / 12.92
      : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const lines = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (!e.checkVisibility() || e.closest(".hidden")) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (box.width && (box.left < -1 || box.right > width + 1)) faults.push(`out: ${name(e)}`);
    if (e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !e.ariaHidden)
      faults.push(`wide: ${name(e)}`);
    if (style.overflowY !== "visible" && e.scrollHeight > e.clientHeight + 1)
      faults.push(`cut off: ${name(e)}`);
    for (const node of e.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.textContent.trim()) continue;
      if (parseFloat(style.fontSize) < 10.5) faults.push(`small: ${name(e)}`);
      const [a, b] = [luminance(channels(style.color).slice(0, 3)), luminance(behind(e))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) faults.push(`faint, ${contrast.toFixed(1)}: ${name(e)}`);
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const r of range.getClientRects())
        if (r.width > 4) lines.push([r.left + 2, r.top + 3, r.right - 2, r.bottom - 3, e]);
    }
  }
  for (const e of document.images) {
    const box = e.getBoundingClientRect();
    if (!e.complete || !e.naturalWidth) faults.push(`no image: ${e.alt}`);
    if (e.checkVisibility())
      lines.push([box.left + 2, box.top + 2, box.right - 2, box.bottom - 2, e]);
  }
  lines.sort((a, b) => a[1] - b[1]);
  for (let i = 0; i < lines.length; i++)
    for (let j = i + 1; j < lines.length && lines[j][1] < lines[i][3]; j++)
      if (lines[i][0] < lines[j][2] && lines[j][0] < lines[i][2])
        faults.push(`overlap: ${name(lines[i][4])} and ${name(lines[j][4])}`);
  return faults;
}"""


@contextmanager
def launched() -> Iterator[Any]:
    """Run a browser during the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def look_at(browser: Any, path: Path, size: tuple[int, int], scheme: str) -> tuple[list[str], str]:
    """Open a page, and all that it can unfold; return what is wrong with it, and its text."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            request.url == path.as_uri()
            or request.url.startswith("data:")
            or faults.append(f"request: {request.url}")
        ),
    )
    page.goto(path.as_uri(), wait_until="load")
    faults += page.evaluate(FAULTS)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    faults += [f"unfolded, {fault}" for fault in page.evaluate(FAULTS)]
    faults += page.evaluate(
        "[...document.images].map((e) => e.currentSrc).filter((u) => !u.startsWith('data:'))"
    )
    text = page.evaluate("document.body.textContent")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    context.close()
    return faults, text
