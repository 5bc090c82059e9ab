"""The web page for uploading a clip: a few files, nothing from other hosts."""

from pathlib import Path

from violence_detection.reporting.rendering import templates_in
from violence_detection.serving.limits import Limits

FOLDER = Path(__file__).parent
TEMPLATE = "page.html.j2"
SCRIPT, ELEMENTS, STYLE = "page.js", "elements.js", "page.css"
HTML = "text/html; charset=utf-8"
MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

PageFile = tuple[str, bytes, str]  # route, content, media type


def page_files(
    model_name: str, warning: str | None, limits: Limits, needs_token: bool
) -> list[PageFile]:
    """Return route, content and media type of each of the page's files.

    Args:
        model_name: shown at the top.
        warning: why predictions must not be relied on; None: nothing is shown.
        limits: what may be uploaded.
        needs_token: whether the page asks for the server's token.
    """
    page = (
        templates_in(FOLDER)
        .get_template(TEMPLATE)
        .render(
            model=model_name,
            warning=warning,
            megabytes=f"{limits.max_upload / 2**20:g}",
            seconds=f"{limits.max_seconds:g}",
            needs_token=needs_token,
            scripts=[ELEMENTS, SCRIPT],
            style=STYLE,
        )
    )
    return [("/", page.encode(), HTML), *static_files(FOLDER, SCRIPT), *shared_files()]


def shared_files() -> list[PageFile]:
    """Return the files that other pages in this style load, too."""
    return static_files(FOLDER, ELEMENTS, STYLE)


def static_files(folder: Path, *names: str) -> list[PageFile]:
    """Return route, content and media type of files below `static/` of a folder."""
    return [
        (f"/{name}", (folder / "static" / name).read_bytes(), MEDIA_TYPES[Path(name).suffix])
        for name in names
    ]
