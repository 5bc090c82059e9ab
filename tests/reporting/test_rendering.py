import pytest

from violence_detection.reporting.rendering import name_parts


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plain name.mp4", [("plain name.mp4", False)]),
        ("a\udcffb", [("a", False), ("\\xff", True), ("b", False)]),
        ("\x1b[31m", [("\\x1b", True), ("[31m", False)]),
        ("\u2066x\u2069", [("\\u2066", True), ("x", False), ("\\u2069", True)]),
        ("👨\u200d👧", [("👨\u200d👧", False)]),
        ("", []),
    ],
)
def test_invisible_characters_of_a_name_are_escaped(
    name: str, parts: list[tuple[str, bool]]
) -> None:
    assert name_parts(name) == parts
