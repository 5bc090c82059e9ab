"""Which clips a dataset folder contains: files, labels, splits and groups.

Two layouts are understood: `DIR/{train,val,test}/{violent,nonviolent}/…` and
`DIR/{violent,nonviolent}/…`, each with an optional `DIR/groups.csv` (`clip,group`).
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, overload

from violence_detection.clips.clip import FILE_TYPES, VIDEO_SUFFIXES, Clip
from violence_detection.clips.folder_names import (
    class_of,
    is_ambiguous,
    is_passed_over,
    split_of,
)
from violence_detection.clips.splits import (
    require_both_classes,
    require_enough_to_split,
    split_clips,
)
from violence_detection.errors import UserError
from violence_detection.settings.constants import CLASS_NAMES, SPLITS, UNLABELED
from violence_detection.storage.remote_paths import AnyPath, RemotePath

GROUPS_CSV = "groups.csv"
Meaning = TypeVar("Meaning", str, int)


def find_clips(
    dataset_path: AnyPath,
    seed: int,
    left_out: Counter[str] | None = None,
    subgroups: Sequence[str] = (),
) -> list[Clip]:
    """Return the clips of a dataset folder, sorted by name within each split.

    Args:
        dataset_path: a folder on a disk or in an object store.
        seed: of the automatic split (`split_clips`), if the folder has no split folders.
        left_out: the files beside the clips are added to it, counted by suffix in lower case.
        subgroups: columns of groups.csv whose values the clips are given.

    Raises:
        UserError: the folder is missing or has neither layout; a split or a class has no clips;
            groups.csv is malformed, lists clips that do not exist, or lacks a column.
        RunError: the object store does not answer.
    """
    if isinstance(dataset_path, Path):
        dataset_path = dataset_path.expanduser().resolve()
    if not dataset_path.is_dir():
        raise UserError(f"--dataset-path {dataset_path}: no such folder")
    left_out = Counter() if left_out is None else left_out
    splits = _known_folders(dataset_path, split_of)
    classes = _known_folders(dataset_path, class_of)
    if splits and classes:
        raise UserError(
            f"{dataset_path} has both split folders ({_names(splits.values())}) and class folders "
            f"({_names(classes.values())}): keep one kind"
        )
    if not splits and not classes:
        for folder in _folders(dataset_path):
            _require_clear_name(folder)
        raise UserError(
            f"{dataset_path} has neither train/val/test nor violent/nonviolent folders; "
            f"folders found: {_names(_folders(dataset_path))}{_suggestion(dataset_path)}"
        )
    if splits:
        clips = _clips_in_split_folders(dataset_path, splits, left_out)
    else:
        clips = _clips_in_class_folders(dataset_path, dataset_path, "train", left_out)
    clips = _with_groups(clips, dataset_path / GROUPS_CSV, subgroups)
    if not splits:
        require_enough_to_split(clips)
        clips = split_clips(clips, seed)
    require_both_classes(clips)
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.name))


def _clips_in_split_folders(
    dataset_path: AnyPath, splits: dict[str, AnyPath], left_out: Counter[str]
) -> list[Clip]:
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
        for clip in _clips_in_class_folders(dataset_path, folder, split, left_out)
    ]


def _clips_in_class_folders(
    dataset_path: AnyPath, folder: AnyPath, split: str, left_out: Counter[str]
) -> list[Clip]:
    classes = _known_folders(folder, class_of)
    found = _folders(folder)
    for unknown in (path for path in found if path not in classes.values()):
        _require_clear_name(unknown)
        raise UserError(
            f"{unknown} is neither a violent nor a nonviolent folder; folders found: "
            f"{_names(found)}. Rename it or move it out of {folder}"
        )
    for label, class_name in enumerate(CLASS_NAMES):
        if label not in classes:
            raise UserError(f"{folder} has no {class_name} folder; folders found: {_names(found)}")
    prefix = "" if folder == dataset_path else f"{folder.name}/"
    clips = []
    for label, class_folder in classes.items():
        for name in file_names(class_folder):
            if _suffix(name) in VIDEO_SUFFIXES:
                file = f"{prefix}{class_folder.name}/{name}"
                clips.append(Clip(dataset_path, file, label, split))
            else:
                left_out[_suffix(name)] += 1
    return clips


def _require_clear_name(folder: AnyPath) -> None:
    """Raise `UserError` if a folder's name says both classes."""
    if is_ambiguous(folder.name):
        raise UserError(
            f"{folder}: its name is ambiguous, both violent and nonviolent: rename it or move it"
        )


def _known_folders(
    folder: AnyPath, meaning_of: Callable[[str], Meaning | None]
) -> dict[Meaning, AnyPath]:
    """Return the sub-folders with a known name by their meaning; raises if two mean the same."""
    found: dict[Meaning, AnyPath] = {}
    for path in _folders(folder):
        meaning = meaning_of(path.name)
        if meaning is None:
            continue
        if meaning in found:
            raise UserError(
                f"{folder}: {found[meaning].name!r} and {path.name!r} mean the same; "
                "merge them or rename one"
            )
        found[meaning] = path
    return found


def _suggestion(folder: AnyPath) -> str:
    """Return the end of a message: the folder that was meant, if it is a level or two off."""
    above = [folder.parent.parent, folder.parent] if isinstance(folder, Path) else []
    for candidate in (*_folders(folder), *above):
        if _has_layout(candidate):
            return f". Did you mean {candidate}?"
    return ""


def _has_layout(folder: AnyPath) -> bool:
    names = [path.name for path in _folders(folder)]
    return {0, 1} <= set(map(class_of, names)) or {"train", "val"} <= set(map(split_of, names))


def _folders(folder: AnyPath) -> list[AnyPath]:
    found: Iterable[AnyPath]
    if isinstance(folder, RemotePath):
        found = folder.subfolders()
    else:
        found = (path for path in folder.iterdir() if path.is_dir())
    visible = (path for path in found if not is_passed_over(path.name))
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
    """Return the paths relative to `folder` of the video files at any depth, with slashes."""
    return [name for name in file_names(folder) if is_video(name)]


def is_video(name: str) -> bool:
    """Return whether a file's name is that of a video."""
    return _suffix(name) in VIDEO_SUFFIXES


def file_names(folder: AnyPath) -> list[str]:
    """Return the paths relative to `folder` of the files at any depth, with slashes.

    Symbolic links are followed; files and folders that `is_passed_over` names are skipped.
    """
    if isinstance(folder, RemotePath):
        return folder.names_below(is_passed_over)
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real_parent = os.path.realpath(parent)
        if real_parent in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real_parent)
        folders[:] = sorted(name for name in folders if not is_passed_over(name))
        relative = Path(parent).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        found += [prefix + name for name in sorted(files) if not is_passed_over(name)]
    return found


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, of millions of names


def _with_groups(clips: list[Clip], groups_csv: AnyPath, subgroups: Sequence[str]) -> list[Clip]:
    """Return the clips with their groups and subgroups from `groups.csv`, if there is one."""
    if not groups_csv.is_file():
        if subgroups:
            raise UserError(
                f"--subgroup {','.join(subgroups)} names columns of {groups_csv}, which is missing"
            )
        return clips
    groups = _read_groups(groups_csv, subgroups)
    missing = sorted(groups.keys() - {clip.name for clip in clips})
    if missing:
        count = "1 clip that does" if len(missing) == 1 else f"{len(missing)} clips that do"
        raise UserError(
            f"{groups_csv} lists {count} not exist, first {missing[0]!r} "
            "(clips are paths relative to the dataset folder)"
        )
    alone: tuple[str | None, tuple[str, ...]] = None, ("",) * len(subgroups)
    return [
        replace(clip, group=group, subgroups=values)
        for clip in clips
        for group, values in (groups.get(clip.name, alone),)
    ]


def require_subgroups(path: AnyPath, columns: Sequence[str], subgroups: Sequence[str]) -> None:
    """Raise `UserError` unless a file has every column that --subgroup names."""
    for name in subgroups:
        if name not in columns:
            raise UserError(
                f"--subgroup {name}: {path} has no such column, only {', '.join(columns)}"
            )


def _read_groups(
    groups_csv: AnyPath, subgroups: Sequence[str]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return group and subgroups of each clip that `groups.csv` lists, by the clip's name."""
    groups: dict[str, tuple[str, tuple[str, ...]]] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all clips of a camera
    try:
        with groups_csv.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"clip", "group"} <= set(rows.fieldnames):
                raise UserError(f"{groups_csv}: the first line must be clip,group")
            require_subgroups(groups_csv, rows.fieldnames, subgroups)
            for row in rows:
                name, group = (row["clip"] or "").strip(), (row["group"] or "").strip()
                if not name or not group:
                    raise UserError(
                        f"{groups_csv}, line {rows.line_num}: needs both a clip and a group"
                    )
                values = tuple((row[column] or "").strip() for column in subgroups)
                found = group, shared.setdefault(values, values)
                before = groups.setdefault(name, found)
                if before != found:
                    one, other = next(
                        pair
                        for pair in zip((before[0], *before[1]), (group, *values), strict=True)
                        if pair[0] != pair[1]
                    )
                    raise UserError(
                        f"{groups_csv}, line {rows.line_num}: {name} is in two groups, "
                        f"{one} and {other}"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{groups_csv} is not a UTF-8 CSV file: {error}") from error
    return groups


def find_unlabeled(folder: Path, flag: str = "--unlabeled") -> list[Clip]:
    """Return the clips at any depth below `folder`, sorted by name; their label is meaningless.

    Args:
        folder: to look in.
        flag: that names it, for messages.

    Raises:
        UserError: the folder is missing or contains no clips.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder")
    names = video_names(folder)
    if not names:
        raise UserError(f"{flag} {folder} contains no clips (file types: {FILE_TYPES})")
    clips = [Clip(folder, name, 0, UNLABELED, prefix=f"{UNLABELED}/") for name in names]
    return sorted(clips, key=lambda clip: clip.name)
