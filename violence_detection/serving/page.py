"""The web page for uploading a clip: three files, nothing from other hosts."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from violence_detection.serving.limits import Limits

FOLDER = Path(__file__).parent
TEMPLATE = "page.html.j2"
SCRIPT, STYLE = "page.js", "page.css"


def page_files(
    model_name: str, warning: str | None, limits: Limits, needs_token: bool
) -> list[tuple[str, bytes, str]]:
    """Return route, content and media type of each of the page's files.

    Args:
        model_name: shown at the top.
        warning: why predictions must not be relied on; None: nothing is shown.
        limits: what may be uploaded.
        needs_token: whether the page asks for the server's token.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        model=model_name,
        warning=warning,
        megabytes=f"{limits.max_upload / 2**20:g}",
        seconds=f"{limits.max_seconds:g}",
        needs_token=needs_token,
        script=SCRIPT,
        style=STYLE,
    )
    return [
        ("/", page.encode(), "text/html; charset=utf-8"),
        (f"/{SCRIPT}", (FOLDER / "static" / SCRIPT).read_bytes(), "text/javascript; charset=utf-8"),
        (f"/{STYLE}", (FOLDER / "static" / STYLE).read_bytes(), "text/css; charset=utf-8"),
    ]
