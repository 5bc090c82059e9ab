import pytest

from violence_detection.clips.folder_names import class_of, is_passed_over, split_of


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (
            "violent Violence FIGHTS fighting Violent_Videos ViolentVideos fight-clips assaults",
            1,
        ),
        (
            "nonviolent non_violent Non-Violence NonFight nonfights NoFight no-fighting not_fight "
            "without_any_violence not-a-fight NotViolent Normal normal_videos "
            "NormalVideos NON_VIOLENT peaceful unviolent safe violence-free FightFree",
            0,
        ),
        ("movies maybe abnormal 123 fight_and_normal violent-or-nonviolent notes", None),
    ],
)
def test_class_is_understood_by_rule(names: str, label: int | None) -> None:
    assert {name: class_of(name) for name in names.split()} == dict.fromkeys(names.split(), label)


def test_spaces_are_understood_too() -> None:
    assert [class_of(name) for name in ("No Fighting", "Normal Videos", "Violent Videos")] == [
        *(0, 0, 1)
    ]


@pytest.mark.parametrize(
    ("name", "split"), [("Train", "train"), ("validation", "val"), ("TESTING", "test"), ("a", None)]
)
def test_split_is_understood(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", "lost+found"])
def test_folders_of_the_system_are_passed_over(name: str) -> None:
    assert is_passed_over(name)
    assert not is_passed_over("violent")
