"""Data sets that are folders of clips: what their folders and file names say.

Folders and names are compared without regard to case, at any depth: archives add folders around
them. Files that are no videos are ignored, videos that do not fit are left out with a note.

    Hockey Fight          fi1_xvid.avi … fi500_xvid.avi are fights, no1_xvid.avi … are not; one
                          folder. E. Bermejo Nievas et al., CAIP 2011.
    RWF-2000              {train,val}/{Fight,NonFight}/ID_0.avi: 5 s of a YouTube video, ID, of
                          which there are several clips. The published tests use val. M. Cheng,
                          K. Cai, M. Li, ICPR 2020; github.com/mchengny/RWF2000-Video-Database-…
    Real Life Violence    Violence/V_1.mp4, NonViolence/NV_1.mp4, 1,000 each; the archive has all
    Situations            of them twice. M. Soliman et al., ICICIS 2019.
    AIRTLab               {violent,non-violent}/{cam1,cam2}/1.mp4: each scene was filmed by both
                          cameras at once, under the same number, all in one room. M. Bianculli et
                          al., Data in Brief 33, 2020; github.com/airtlab/A-Dataset-for-… A copy
                          has violent/cam1_1.mp4.
    Violent Flows         {1,2,3,4,5}/{Violence,NonViolence}/…__ID.avi: crowds; the folders are the
                          five folds of the published tests, ID the YouTube video. T. Hassner,
                          Y. Itcher, O. Kliper-Gross, CVPR Workshops 2012.
    SCVD                  SCVD_converted/{Train,Test}/{Normal,Violence,Weaponized}/v001_converted
                          .avi, in Test t_v001_converted.avi; SCVD_converted_sec_split has the same
                          videos in pieces of a second. T. Aremu et al., "SSIVD-Net", 2024.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from violence_detection.clips.dataset import find_clips, video_names
from violence_detection.clips.folder_names import split_of
from violence_detection.clips.manifest import ManifestRow
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.videos import manifest_path
from violence_detection.errors import UserError
from violence_detection.runtime.wording import count_of

# Videos that are numbered, with no name of a source before the number.
_NUMBERED = re.compile(r"(n?v|[fn]|fight|clip|video)(_\d+)+", re.IGNORECASE)


def class_folders(source: Path, manifest_folder: Path) -> Imported | None:
    """Read a folder that `--dataset-path` takes as it is, to join it with others.

    Args:
        source: has violent and nonviolent folders, in train, val and test or not; groups.csv
            counts.
        manifest_folder: that paths are relative to.

    Returns:
        None: it is none.
    """
    try:
        clips = find_clips(source, seed=0)
    except UserError:
        return None
    rows = [
        ManifestRow(
            manifest_path(source / clip.name, manifest_folder),
            clip.label,
            split=split_of(PurePosixPath(clip.name).parts[0]) and clip.split,
            group=clip.group,
        )
        for clip in clips
    ]
    return Imported("folders of classes", rows)


def hockey_fight(source: Path, manifest_folder: Path) -> Imported | None:
    """Read Hockey Fight, see `formats.Reader`."""

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        found = re.fullmatch(r"(fi|no)[_-]?\d+(_xvid)?", path.stem.lower())
        if found is None:
            return None
        return ManifestRow(text, int(found[1] == "fi"), split=_split_in(path))

    notes = ["clips of one game are not marked: no groups"]
    return _imported("Hockey Fight", source, manifest_folder, row, notes, names_are_unique=True)


def rwf_2000(source: Path, manifest_folder: Path) -> Imported | None:
    """Read RWF-2000, see `formats.Reader`. Clips of one YouTube video are a group."""

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        label = _label_in(path, r"(?:(?:train|val)[_ -])?(non|no)?[_ -]?fights?")
        found = re.fullmatch(r"(.+)_\d+", path.stem)
        split = _split_in(path)
        if label is None or found is None or split is None or _NUMBERED.fullmatch(path.stem):
            return None
        return ManifestRow(text, label, split=split, group=found[1])

    notes = ["no test split: the published tests use val"]
    return _imported("RWF-2000", source, manifest_folder, row, notes)


def real_life_violence(source: Path, manifest_folder: Path) -> Imported | None:
    """Read Real Life Violence Situations, see `formats.Reader`."""

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        label = _label_in(path, r"(non|no)?[_ -]?violence")
        found = re.fullmatch(r"(n?)v_\d+", path.stem.lower())
        if found is None or label is None or label == bool(found[1]):
            return None
        return ManifestRow(text, label, split=_split_in(path))

    notes = ["clips of one source are not marked: no groups"]
    name = "Real Life Violence Situations"
    return _imported(name, source, manifest_folder, row, notes, names_are_unique=True)


def airtlab(source: Path, manifest_folder: Path) -> Imported | None:
    """Read AIRTLab, see `formats.Reader`. A camera is a group: a test is of one not trained on."""

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        label = _label_in(path, r"(non|no)?[_ -]?violent")
        parts = [part.lower() for part in (*path.parts[:-1], path.stem)]
        found = re.search(r"(?:^|/)cam(?:era)?_?(\d+)[_/]\d+$", "/".join(parts))
        if label is None or found is None:
            return None
        return ManifestRow(text, label, split=_split_in(path), group=f"cam{found[1]}")

    notes = [
        "both cameras filmed the same scenes at once: two groups, enough for --cross-validate 2, "
        "but not for three splits; to train on both, make the scene (the file's number) the group"
    ]
    return _imported("AIRTLab", source, manifest_folder, row, notes)


def violent_flows(source: Path, manifest_folder: Path) -> Imported | None:
    """Read Violent Flows, see `formats.Reader`. Clips of one YouTube video are a group."""

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        label = _label_in(path, r"(non|no)?[_ -]?violen(?:ce|t)")
        if label is None or not any(re.fullmatch(r"[1-9]", part) for part in path.parts[:-1]):
            return None
        if re.fullmatch(r"n?v_\d+", path.stem.lower()):  # Real Life Violence Situations
            return None
        found = re.search(r"__([\w-]{11})(?:[_-]\d+)?$", path.stem)
        return ManifestRow(text, label, group=found[1] if found else path.stem)

    notes = [
        "the folders 1 to 5 are the folds of the published tests, not splits: the splits are left "
        "to training"
    ]
    return _imported("Violent Flows", source, manifest_folder, row, notes)


def scvd(source: Path, manifest_folder: Path) -> Imported | None:
    """Read SCVD, see `formats.Reader`. Weaponized violence is violent.

    The pieces of a second are left out where the whole videos are. Pieces of one video are a
    group.
    """

    def row(path: PurePosixPath, text: str) -> ManifestRow | None:
        label = _label_in(path, r"(normal)|violence|violent|weaponi[sz]ed(?:[_ -]?violence)?")
        found = re.match(r"((?:t_)?[nvw]\d+)(?:[^0-9a-z]|$)", path.stem.lower())
        if label is None or found is None:
            return None
        return ManifestRow(text, label, split=_split_in(path), group=found[1])

    names = video_names(source) if source.is_dir() else []
    whole = [name for name in names if "sec_split" not in name.lower()]
    pieces = len(names) - len(whole)
    notes = ["no validation split: Train and Test are those of the data set"]
    if whole and pieces:
        imported = _imported("SCVD", source, manifest_folder, row, notes, names=whole)
        if imported is not None:
            imported.notes.append(
                f"{count_of(pieces, 'clip')} of SCVD_converted_sec_split left out: pieces of a "
                "second of the same videos"
            )
        return imported
    return _imported("SCVD", source, manifest_folder, row, notes)


def _imported(
    format_name: str,
    source: Path,
    manifest_folder: Path,
    row: Callable[[PurePosixPath, str], ManifestRow | None],
    notes: Iterable[str],
    names: list[str] | None = None,
    names_are_unique: bool = False,
) -> Imported | None:
    """Return the clips of a folder, if most of its videos are the data set's.

    Args:
        row: returns the row of a clip, from its path below `source` and its path in the manifest;
            None if it is none of the data set.
        names: of the videos below `source`; None: all of them.
        names_are_unique: so that clips of one name and size in two folders are copies.
    """
    if not source.is_dir():
        return None
    names = video_names(source) if names is None else names
    rows = {}
    for name in names:
        made = row(PurePosixPath(name), manifest_path(source / name, manifest_folder))
        if made is not None:
            rows[name] = made
    if 2 * len(rows) <= len(names):
        return None
    left_out = sorted(names - rows.keys())
    notes = list(notes)
    if left_out:
        notes.append(
            f"{count_of(len(left_out), 'video')} left out: none of {format_name}, first "
            f"{left_out[0]}"
        )
    kept = _without_copies(rows, source) if names_are_unique else list(rows.values())
    if copies := len(rows) - len(kept):
        notes.append(f"{count_of(copies, 'clip')} left out: copies in another folder")
    return Imported(format_name, kept, notes=notes)


def _without_copies(rows: dict[str, ManifestRow], source: Path) -> list[ManifestRow]:
    """Return the rows of files, the first of each name and size."""
    originals: dict[tuple[str, int], ManifestRow] = {}
    for name, row in rows.items():
        key = (PurePosixPath(name).name.lower(), (source / name).stat().st_size)
        originals.setdefault(key, row)
    return list(originals.values())


def _label_in(path: PurePosixPath, pattern: str) -> int | None:
    """Return the label that the folders of a clip say, the nearest first; None if none does.

    Args:
        pattern: of a class's folder; its first group is of the nonviolent class.
    """
    for part in reversed(path.parts[:-1]):
        if found := re.fullmatch(pattern, part.lower()):
            return int(found[1] is None)
    return None


def _split_in(path: PurePosixPath) -> str | None:
    """Return the split that the folders of a clip say; None if none does."""
    for part in reversed(path.parts[:-1]):
        if (split := split_of(part)) is not None:
            return split
    return None
