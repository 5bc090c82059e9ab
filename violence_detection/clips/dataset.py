"""Which clips a dataset folder contains: files, labels, splits and groups.

Two layouts are understood: `DIR/{train,val,test}/{violent,nonviolent}/…` and
`DIR/{violent,nonviolent}/…`, each with an optional `DIR/groups.csv` (`clip,group`).
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from violence_detection.clips.clip import FILE_TYPES, VIDEO_SUFFIXES, Clip
from violence_detection.clips.splits import require_both_classes, split_clips
from violence_detection.errors import UserError
from violence_detection.settings.constants import CLASS_NAMES, SPLITS, UNLABELED
from violence_detection.storage.remote_paths import AnyPath, RemotePath

# Folder names, compared without case and punctuation: "Non-Violent" is "nonviolent".
CLASS_FOLDERS = {
    "nonviolent": 0,
    "nonviolence": 0,
    "notviolent": 0,
    "noviolence": 0,
    "nofight": 0,
    "nofights": 0,
    "nonfight": 0,
    "nonfights": 0,
    "normal": 0,
    "violent": 1,
    "violence": 1,
    "fight": 1,
    "fights": 1,
    "fighting": 1,
}
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def find_clips(dataset_path: AnyPath, seed: int) -> list[Clip]:
    """Return the clips of a dataset folder, sorted by name within each split.

    Args:
        dataset_path: a folder on a disk or in an object store.
        seed: of the automatic split (`split_clips`), if the folder has no split folders.

    Raises:
        UserError: the folder is missing or has neither layout; a split or a class has no clips;
            groups.csv is malformed or lists clips that do not exist.
        RunError: the object store does not answer.
    """
    if isinstance(dataset_path, Path):
        dataset_path = dataset_path.expanduser().resolve()
    if not dataset_path.is_dir():
        raise UserError(f"--dataset-path {dataset_path}: no such folder")
    splits = _known_folders(dataset_path, SPLIT_FOLDERS)
    classes = _known_folders(dataset_path, CLASS_FOLDERS)
    if splits and classes:
        raise UserError(
            f"{dataset_path} has both split folders ({_names(splits.values())}) and class folders "
            f"({_names(classes.values())}): keep one kind"
        )
    if not splits and not classes:
        raise UserError(
            f"{dataset_path} has neither train/val/test nor violent/nonviolent folders; "
            f"folders found: {_names(_folders(dataset_path))}"
        )
    if splits:
        clips = _clips_in_split_folders(dataset_path, splits)
    else:
        clips = _clips_in_class_folders(dataset_path, dataset_path, "train")
    clips = _with_groups(clips, dataset_path / "groups.csv")
    if not splits:
        clips = split_clips(clips, seed)
    require_both_classes(clips)
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.name))


def _clips_in_split_folders(dataset_path: AnyPath, splits: dict[str, AnyPath]) -> list[Clip]:
    for missing in (split for split in ("train", "val") if split not in splits):
        raise UserError(
            f"{dataset_path} has no {missing} folder; folders found: {_names(splits.values())}"
        )
    for folder in _folders(dataset_path):
        if folder not in splits.values() and any(video_names(folder)):
            raise UserError(
                f"{folder} contains clips but is not one of {', '.join(SPLITS)}: "
                "rename it or move it away"
            )
    return [
        clip
        for split, folder in splits.items()
        for clip in _clips_in_class_folders(dataset_path, folder, split)
    ]


def _clips_in_class_folders(dataset_path: AnyPath, folder: AnyPath, split: str) -> list[Clip]:
    classes = _known_folders(folder, CLASS_FOLDERS)
    found = _folders(folder)
    for unknown in (path for path in found if path not in classes.values()):
        raise UserError(
            f"{unknown} is neither a violent nor a nonviolent folder; folders found: "
            f"{_names(found)}. Rename it or move it out of {folder}"
        )
    for label, class_name in enumerate(CLASS_NAMES):
        if label not in classes:
            raise UserError(f"{folder} has no {class_name} folder; folders found: {_names(found)}")
    prefix = "" if folder == dataset_path else f"{folder.name}/"
    return [
        Clip(dataset_path, f"{prefix}{class_folder.name}/{name}", label, split)
        for label, class_folder in classes.items()
        for name in video_names(class_folder)
    ]


def _known_folders(folder: AnyPath, meanings: dict[str, Any]) -> dict[Any, AnyPath]:
    """Return the sub-folders with a known name by their meaning; raises if two mean the same."""
    found: dict[Any, AnyPath] = {}
    for path in _folders(folder):
        plain = "".join(character for character in path.name.lower() if character.isalnum())
        if plain not in meanings:
            continue
        meaning = meanings[plain]
        if meaning in found:
            raise UserError(
                f"{folder}: {found[meaning].name!r} and {path.name!r} mean the same; "
                "merge them or rename one"
            )
        found[meaning] = path
    return found


def _folders(folder: AnyPath) -> list[AnyPath]:
    found: Iterable[AnyPath]
    if isinstance(folder, RemotePath):
        found = folder.subfolders()
    else:
        found = (path for path in folder.iterdir() if path.is_dir())
    visible = (path for path in found if not path.name.startswith("."))
    return sorted(visible, key=lambda path: path.name)


def _names(paths: Iterable[AnyPath]) -> str:
    return ", ".join(sorted(repr(path.name) for path in paths)) or "none"


@overload
def video_files(folder: Path) -> list[Path]: ...
@overload
def video_files(folder: AnyPath) -> list[AnyPath]: ...
def video_files(folder: AnyPath) -> Sequence[AnyPath]:
    """Return the video files at any depth below `folder`, see `video_names`."""
    return [folder / name for name in video_names(folder)]


def video_names(folder: AnyPath) -> list[str]:
    """Return the paths relative to `folder` of the video files at any depth, with slashes.

    Symbolic links are followed; hidden files and folders are skipped.
    """
    if isinstance(folder, RemotePath):
        return folder.names_below(VIDEO_SUFFIXES)
    found, visited, suffixes = [], set(), tuple(VIDEO_SUFFIXES)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real_parent = os.path.realpath(parent)
        if real_parent in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real_parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        found += [
            prefix + name
            for name in sorted(files)
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    return found


def _with_groups(clips: list[Clip], groups_csv: AnyPath) -> list[Clip]:
    """Return the clips with their groups from `groups.csv`, if there is one."""
    if not groups_csv.is_file():
        return clips
    groups = _read_groups(groups_csv)
    missing = sorted(groups.keys() - {clip.name for clip in clips})
    if missing:
        count = "1 clip that does" if len(missing) == 1 else f"{len(missing)} clips that do"
        raise UserError(
            f"{groups_csv} lists {count} not exist, first {missing[0]!r} "
            "(clips are paths relative to the dataset folder)"
        )
    return [replace(clip, group=groups.get(clip.name)) for clip in clips]


def _read_groups(groups_csv: AnyPath) -> dict[str, str]:
    """Return the group of each clip that `groups.csv` lists, by the clip's name."""
    groups: dict[str, str] = {}
    try:
        with groups_csv.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"clip", "group"} <= set(rows.fieldnames):
                raise UserError(f"{groups_csv}: the first line must be clip,group")
            for row in rows:
                name, group = (row["clip"] or "").strip(), (row["group"] or "").strip()
                if not name or not group:
                    raise UserError(
                        f"{groups_csv}, line {rows.line_num}: needs both a clip and a group"
                    )
                if groups.setdefault(name, group) != group:
                    raise UserError(
                        f"{groups_csv}, line {rows.line_num}: {name} is in two groups, "
                        f"{groups[name]} and {group}"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{groups_csv} is not a UTF-8 CSV file: {error}") from error
    return groups


def find_unlabeled(folder: Path) -> list[Clip]:
    """Return the clips at any depth below `folder`, sorted by name; their label is meaningless.

    Raises:
        UserError: the folder is missing or contains no clips.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--unlabeled {folder}: no such folder")
    names = video_names(folder)
    if not names:
        raise UserError(f"--unlabeled {folder} contains no clips (file types: {FILE_TYPES})")
    clips = [Clip(folder, name, 0, UNLABELED, prefix=f"{UNLABELED}/") for name in names]
    return sorted(clips, key=lambda clip: clip.name)
