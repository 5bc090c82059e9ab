"""The templates of the reports' pages, and what is done to every text that they show.

Every value is escaped by Jinja2; a page has no script and forbids all that is not in it.
"""

import base64
import re
import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from violence_detection.runtime.wording import count_of
from violence_detection.storage.files import write_text


def templates_in(folder: Path, is_html: bool = True) -> Environment:
    """Return the templates below `templates/` of a folder; a name that is not given is an error.

    Args:
        folder: of a package.
        is_html: whether values are escaped.
    """
    return Environment(
        loader=FileSystemLoader(folder / "templates"),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(template: str, path: Path, **values: Any) -> None:
    """Render a template into a file that needs no other.

    Args:
        template: its file name, below `templates/`.
        path: of the page.
        values: that the template shows, by name.

    Raises:
        RunError: the page cannot be written.
    """
    environment = templates_in(Path(__file__).parent)
    environment.finalize = _printable
    environment.filters |= {"parts": name_parts, "count_of": count_of}
    write_text(path, environment.get_template(template).render(**values))


def write_markdown(template: str, path: Path, **values: Any) -> None:
    """Render a template into a Markdown file; the filter `plain` is for what others have named.

    Args:
        template: its file name, below `templates/`.
        path: of the file.
        values: that the template shows, by name.

    Raises:
        RunError: the file cannot be written.
    """
    # No HTML: what could be taken for it is escaped by `plain`.
    environment = templates_in(Path(__file__).parent, is_html=False)
    environment.filters["plain"] = _plain_in_markdown
    write_text(path, environment.get_template(template).render(**values))


def _plain_in_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*\[\]<>|#&]|_(?=\W|$)|(?<!\w)_)", r"\\\1", _printable(text))


def css_percent(share: float) -> str:
    """Return a share, cut to 0 to 1, as a length in CSS."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def png_url(data: bytes) -> str:
    """Return the URL that contains a PNG file."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def jpeg_url(data: bytes) -> str:
    """Return the URL that contains a JPEG file."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _printable(value: Any) -> Any:
    """Return what the page shows for a value: without invisible characters, valid in UTF-8."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return value
    return "".join(text for text, _ in name_parts(str(value)))


def name_parts(name: str) -> list[tuple[str, bool]]:
    """Return a file's name in parts, each with whether it is an escape sequence.

    Characters that a reader would not see, or not where they are, are replaced by escape
    sequences: control characters, changes of the writing direction, bytes that are not UTF-8.
    """
    if name.isprintable():  # fast, as nearly all are: the pictures are texts of the page, too
        return [(name, False)] if name else []
    parts: list[tuple[str, bool]] = []
    plain = ""
    for character in name:
        if not _is_hidden(character):
            plain += character
            continue
        parts += [(plain, False)] if plain else []
        plain = ""
        is_byte = "\udc80" <= character <= "\udcff"
        escaped = (
            f"\\x{ord(character) - 0xDC00:02x}"
            if is_byte
            else character.encode("unicode_escape").decode()
        )
        parts.append((escaped, True))
    return [*parts, (plain, False)] if plain else parts


def _is_hidden(character: str) -> bool:
    joins = character in "\u200c\u200d"  # letters of some scripts, parts of one emoji
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not joins
