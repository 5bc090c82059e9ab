"""The page of the service: a clip is dropped on it. Three files, nothing from outside."""

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from violence_detection.inference.detector import Detector
from violence_detection.serving.schemas import warning_of

if TYPE_CHECKING:
    from violence_detection.serving.service import Limits

FOLDER = Path(__file__).parent
TEMPLATE = "page.html.j2"
SCRIPT, STYLE = "page.js", "page.css"


def page_files(
    detector: Detector, limits: "Limits", token: str | None
) -> list[tuple[str, bytes, str]]:
    """Return route, content and media type of each of the page's files."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        model=detector.name,
        warning=warning_of(detector),
        megabytes=f"{limits.max_upload / 2**20:g}",
        seconds=f"{limits.max_seconds:g}",
        needs_token=token is not None,
        script=SCRIPT,
        style=STYLE,
    )
    return [
        ("/", page.encode(), "text/html; charset=utf-8"),
        (f"/{SCRIPT}", (FOLDER / "static" / SCRIPT).read_bytes(), "text/javascript; charset=utf-8"),
        (f"/{STYLE}", (FOLDER / "static" / STYLE).read_bytes(), "text/css; charset=utf-8"),
    ]
