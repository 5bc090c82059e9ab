from pathlib import Path

from violence_detection.clips.clip import Clip, group_key


def test_group_keys_of_a_group_and_of_a_single_clip_never_collide() -> None:
    single = Clip(Path("/data"), "val/a.mp4", 0, "val")
    grouped = Clip(Path("/data"), "val/b.mp4", 0, "val", group="val/a.mp4")
    assert single.group_key != grouped.group_key
    assert single.group_key == group_key(single.name, None) == group_key(single.name, "")
    assert grouped.group_key == group_key("train/c.mp4", "val/a.mp4")


def test_name_has_the_prefix_and_the_path_has_not() -> None:
    clip = Clip(Path("/data"), "deep/a.mp4", 0, "unlabeled", prefix="unlabeled/")
    assert clip.name == "unlabeled/deep/a.mp4"
    assert clip.path == Path("/data/deep/a.mp4")
