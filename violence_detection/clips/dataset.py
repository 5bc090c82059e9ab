"""Which clips there are: files, labels, splits and groups of a dataset folder."""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from violence_detection.errors import UserError
from violence_detection.settings.constants import CLASS_NAMES, SPLIT_SHARES, SPLITS, UNLABELED
from violence_detection.storage.files import write_csv
from violence_detection.storage.object_store import AnyPath, RemotePath

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg")
)
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


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled video file."""

    folder: AnyPath  # absolute; one object for all clips of it, of which there may be millions
    file: str  # its name below the folder, with slashes
    label: int  # 1 is violent
    split: str  # one of SPLITS, or UNLABELED
    group: str | None = None  # clips of one group share a source video or a camera
    mark: str = ""  # before the names of unlabeled clips

    @property
    def path(self) -> AnyPath:
        """Where it is, absolute."""
        return self.folder / self.file

    @property
    def name(self) -> str:
        """What it is called in lists, and told apart by: its name below the dataset folder."""
        return self.mark + self.file


def find_clips(dataset_path: AnyPath, seed: int) -> list[Clip]:
    """Return the clips of a dataset folder, sorted by name within each split.

    Without split folders the clips are divided 70/15/15, stratified, by group, seeded by `seed`.

    Raises:
        UserError: the folder is missing, or is not in one of the two layouts; a split or a class
            has no clips; groups.csv is malformed or names clips that are not there.
    """
    if isinstance(dataset_path, Path):
        dataset_path = dataset_path.expanduser().resolve()
    if not dataset_path.is_dir():
        raise UserError(f"--dataset-path {dataset_path}: no such folder")
    splits = _known_folders(dataset_path, SPLIT_FOLDERS)
    classes = _known_folders(dataset_path, CLASS_FOLDERS)
    if splits and classes:
        raise UserError(
            f"{dataset_path} has folders of splits ({_names(splits.values())}) beside folders of "
            f"classes ({_names(classes.values())}): keep one kind"
        )
    if not splits and not classes:
        seen = _names(_folders(dataset_path)) or "none"
        raise UserError(
            f"{dataset_path} has neither train/val/test nor violent/nonviolent folders; "
            f"folders seen: {seen}"
        )
    if splits:
        clips = _clips_of_split_folders(dataset_path, splits)
    else:
        clips = _clips_of_class_folders(dataset_path, dataset_path, "train")
    clips = _with_groups(clips, dataset_path / "groups.csv")
    if not splits:
        clips = split_clips(clips, seed)
    require_both_classes(clips)
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.name))


def _clips_of_split_folders(dataset_path: AnyPath, splits: dict[str, AnyPath]) -> list[Clip]:
    for missing in (split for split in ("train", "val") if split not in splits):
        raise UserError(
            f"{dataset_path} has no {missing} folder; folders seen: {_names(splits.values())}"
        )
    for folder in _folders(dataset_path):
        if folder not in splits.values() and any(video_names(folder)):
            raise UserError(
                f"{folder} holds clips but is none of {', '.join(SPLITS)}: rename or move it"
            )
    return [
        clip
        for split, folder in splits.items()
        for clip in _clips_of_class_folders(dataset_path, folder, split)
    ]


def _clips_of_class_folders(dataset_path: AnyPath, folder: AnyPath, split: str) -> list[Clip]:
    classes = _known_folders(folder, CLASS_FOLDERS)
    seen = _folders(folder)
    for unknown in (path for path in seen if path not in classes.values()):
        raise UserError(
            f"{unknown}: the name says neither violent nor nonviolent; folders seen: "
            f"{_names(seen)}. Rename it, or move it out of {folder}"
        )
    for label, class_name in enumerate(CLASS_NAMES):
        if label not in classes:
            raise UserError(
                f"{folder} has no folder of {class_name} clips; "
                f"folders seen: {_names(seen) or 'none'}"
            )
    # Of a folder of splits, its classes are two below the dataset's; without splits, one.
    before = "" if folder == dataset_path else f"{folder.name}/"
    return [
        Clip(dataset_path, f"{before}{class_folder.name}/{name}", label, split)
        for label, class_folder in classes.items()
        for name in video_names(class_folder)
    ]


def _known_folders(folder: AnyPath, meanings: dict[str, Any]) -> dict[Any, AnyPath]:
    """Return what each understood sub-folder stands for; raises if two stand for the same."""
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
    shown = (path for path in found if not path.name.startswith("."))
    return sorted(shown, key=lambda path: path.name)


def _names(paths: Iterable[AnyPath]) -> str:
    return ", ".join(sorted(repr(path.name) for path in paths))


@overload
def video_files(folder: Path) -> list[Path]: ...
@overload
def video_files(folder: AnyPath) -> list[AnyPath]: ...
def video_files(folder: AnyPath) -> Sequence[AnyPath]:
    """Return the clips at any depth below `folder`, through symbolic links, hidden files left."""
    return [folder / name for name in video_names(folder)]


def video_names(folder: AnyPath) -> list[str]:
    """Return the names below `folder` of what `video_files` returns, with slashes."""
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
        below = Path(parent).relative_to(folder).as_posix()
        before = "" if below == "." else f"{below}/"
        found += [
            before + name
            for name in sorted(files)
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    return found


def _with_groups(clips: list[Clip], groups_csv: AnyPath) -> list[Clip]:
    """Return the clips with their group from `groups.csv` (`clip,group`), where there is one."""
    if not groups_csv.is_file():
        return clips
    groups: dict[str, str] = {}
    try:
        with groups_csv.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"clip", "group"} <= set(rows.fieldnames):
                raise UserError(f"{groups_csv}: the first line must be clip,group")
            for row in rows:
                name, group = (row["clip"] or "").strip(), (row["group"] or "").strip()
                if not name or not group:
                    raise UserError(f"{groups_csv}, line {rows.line_num}: a clip and a group, both")
                if groups.setdefault(name, group) != group:
                    raise UserError(
                        f"{groups_csv}, line {rows.line_num}: {name} is in two groups, "
                        f"{groups[name]} and {group}"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{groups_csv} is not a UTF-8 CSV file: {error}") from error
    missing = sorted(groups.keys() - {clip.name for clip in clips})
    if missing:
        raise UserError(
            f"{groups_csv} names {len(missing)} clips that are not there, "
            f"the first is {missing[0]!r} (a clip is written as its path below the dataset folder)"
        )
    return [replace(clip, group=groups.get(clip.name)) for clip in clips]


def find_unlabeled(folder: Path) -> list[Clip]:
    """Return the clips at any depth below `folder`, sorted by name; their label means nothing.

    Raises:
        UserError: there is no such folder, or no clip in it.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--unlabeled {folder}: no such folder")
    found = [Clip(folder, name, 0, UNLABELED, mark=f"{UNLABELED}/") for name in video_names(folder)]
    if not found:
        raise UserError(
            f"--unlabeled {folder} holds no clips (file types: {', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    return sorted(found, key=lambda clip: clip.name)


def split_clips(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Return the clips divided 70/15/15 into train, val and test.

    Stratified by label; clips of one group stay on one side; a clip without a group is a group
    of its own. Largest groups first, each goes to the split that still lacks the largest share of
    what it should have of the group's classes; ties are in an order seeded by `seed`.
    """
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.name):
        members[f"group {clip.group}" if clip.group else f"clip {clip.name}"].append(clip)
    order = np.random.default_rng(seed).permutation(len(members))
    groups = [list(members.values())[i] for i in order]
    groups.sort(key=len, reverse=True)
    counts = np.array([[clip.label for clip in group].count(1) for group in groups])
    sizes = np.stack([[len(group) for group in groups] - counts, counts], axis=1)  # per class
    wanted = np.array([SPLIT_SHARES[split] for split in SPLITS])[:, None] * sizes.sum(axis=0)
    placed = np.zeros_like(wanted)
    result = []
    for group, size in zip(groups, sizes, strict=True):
        # How much emptier than wanted each split is, in the classes that the group brings.
        room = ((wanted - placed) / np.maximum(wanted, 1e-9) * size).sum(axis=1)
        side = int(np.argmax(room))
        placed[side] += size
        result += [replace(clip, split=SPLITS[side]) for clip in group]
    return result


def require_both_classes(clips: Sequence[Clip]) -> None:
    """Raise `UserError` if a split lacks a class, or training or validation is empty."""
    counts = Counter((clip.split, clip.label) for clip in clips)
    for split in (split for split in SPLITS if any(clip.split == split for clip in clips)):
        for label, class_name in enumerate(CLASS_NAMES):
            if not counts[split, label]:
                raise UserError(
                    f"the {split} split has no {class_name} clips that can be used: it needs both "
                    f"classes (file types: {', '.join(sorted(VIDEO_SUFFIXES))})"
                )
    for split in ("train", "val"):
        if not any(clip.split == split for clip in clips):
            raise UserError(
                f"the {split} split has no clips (file types: {', '.join(sorted(VIDEO_SUFFIXES))})"
            )


def groups_on_two_sides(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """Return the groups whose clips lie in more than one split, with those splits."""
    sides: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group:
            sides[clip.group].add(clip.split)
    return {group: sorted(found) for group, found in sorted(sides.items()) if len(found) > 1}


def count_by_split(clips: Sequence[Clip]) -> dict[str, dict[str, int]]:
    """Return how many clips of each class each split has."""
    return {
        split: {
            class_name: sum(clip.split == split and clip.label == label for clip in clips)
            for label, class_name in enumerate(CLASS_NAMES)
        }
        for split in SPLITS
        if any(clip.split == split for clip in clips)
    }


def fingerprint(clips: Sequence[Clip]) -> str:
    """Return a hash of the clips' names, labels and splits, in their order."""
    listing = "\n".join(f"{clip.split}\t{clip.label}\t{clip.name}" for clip in clips)
    return hashlib.blake2b(listing.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def write_splits(clips: Sequence[Clip], path: Path) -> None:
    """Write `clip,label,split,group`, a row per clip."""
    rows = [(clip.name, CLASS_NAMES[clip.label], clip.split, clip.group or "") for clip in clips]
    write_csv(path, ("clip", "label", "split", "group"), rows)
