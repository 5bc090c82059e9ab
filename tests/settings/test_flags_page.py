from tests.conftest import ROOT
from violence_detection.settings.flags_page import flags_page
from violence_detection.settings.schema import FIELDS
from violence_detection.settings.setting import flag


def test_flags_page_is_up_to_date() -> None:
    """To renew it: `python config.py --write-flags-page docs/flags.md`."""
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == flags_page()


def test_flags_page_has_every_flag() -> None:
    page = flags_page()
    assert all(f"### `{flag(name)}" in page for name in FIELDS)
