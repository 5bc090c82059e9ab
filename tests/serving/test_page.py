import re

import pytest

from tests.serving.http import LIMITS
from violence_detection.serving.page import page_files

HOSTILE = '<script>alert("model")</script>'


def page_of(model: str = "model", warning: str | None = None, needs_token: bool = False) -> str:
    (page,) = (
        content.decode()
        for route, content, _ in page_files(model, warning, LIMITS, needs_token)
        if route == "/"
    )
    return page


def test_page_states_the_limits_and_loads_only_the_other_files() -> None:
    page = page_of()
    assert "1 MB" in page
    assert "60 s" in page
    routes = {route for route, _, _ in page_files("model", None, LIMITS, needs_token=False)}
    loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]*)"', page)
    assert {f"/{name}" for name in loaded if not name.startswith("data:")} == routes - {"/"}


def test_names_and_warnings_are_escaped() -> None:
    page = page_of(model=HOSTILE, warning=HOSTILE)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(&#34;model&#34;)") == 2


@pytest.mark.parametrize("needs_token", [True, False])
def test_token_is_asked_for_only_where_it_is_needed(needs_token: bool) -> None:
    assert ('id="token"' in page_of(needs_token=needs_token)) == needs_token
