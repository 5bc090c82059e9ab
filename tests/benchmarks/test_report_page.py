from pathlib import Path

from benchmarks.report_page import link_clips, make_run, open_in_browser, write_page
from tests.browser import needs_browser
from tests.reporting.made_up_runs import Page


@needs_browser
def test_page_of_a_made_up_run_is_written_and_opened(drawn_clips: Path, tmp_path: Path) -> None:
    clips = link_clips(tmp_path / "clips", drawn_clips, 250)
    run = make_run(tmp_path / "run", tmp_path / "clips", clips)
    write_page(run, run / "page.html")
    page = Page(run / "page.html")
    assert len({clip.name for clip in clips}) == 250
    assert "No frames" not in page.text
    assert page.row("camera 3")[0] == str(sum("camera 3/" in clip.name for clip in clips))
    opened = open_in_browser(run / "page.html", openings=1)
    assert 0 < opened["open_seconds"] < opened["unfold_seconds"]
