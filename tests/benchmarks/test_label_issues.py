import json
from pathlib import Path

import pytest

from benchmarks.label_issues import choose_flipped, main, what_is_found
from benchmarks.linked_clips import clips_of


def test_same_share_of_each_class_is_flipped(drawn_clips: Path) -> None:
    clips = clips_of(drawn_clips)
    flipped = choose_flipped(clips, 0.3, seed=0)
    assert sorted(clips[index].clip.label for index in flipped) == [0] * 4 + [1] * 4
    assert flipped == choose_flipped(clips, 0.3, seed=0) != choose_flipped(clips, 0.3, seed=1)


def test_share_of_the_flipped_labels_among_the_first_is_counted() -> None:
    listed = [{"clip": str(n), "suspect": "yes" if n < 3 else "no"} for n in range(20)]
    report = what_is_found(listed, {"0", "2", "3", "19", "not listed"})
    assert report["flipped"] == 4
    assert report["found_among_first"] == {"5%": 0.25, "10%": 0.25, "20%": 0.75}
    assert (report["suspects"], report["flipped_among_suspects"]) == (3, 2)


@pytest.mark.slow
def test_labels_are_flipped_cross_validated_once_and_counted(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    command = ["--dataset-path", str(drawn_clips), "--work-dir", str(work), *quick_flags]
    command += ["--flip", "0.25", "--cross-validate", "2", "--epochs", "2", "--head", "mean"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["clips"], first["flipped"]) == (28, 8)
    assert 0 <= first["found_among_first"]["20%"] <= 5 / 8
    (folder,) = work.glob("*_flipped_0.25_seed_1")
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    assert len(links) == 28
    under_other = [path for path in links if path.parent.name != path.resolve().parent.name]
    assert len(under_other) == 8
    assert main([*command, "--json", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text()) == first  # its seconds, too
