"""The formats that can be imported; a folder or file is read in the one that it has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from violence_detection.datasets import folders
from violence_detection.datasets.annotations import text_of
from violence_detection.datasets.cctv_fights import cctv_fights
from violence_detection.datasets.imported import Imported
from violence_detection.datasets.tools.cvat import cvat
from violence_detection.datasets.tools.fiftyone import fiftyone
from violence_detection.datasets.tools.label_studio import label_studio
from violence_detection.datasets.tools.via import via
from violence_detection.datasets.ubi_fights import ubi_fights
from violence_detection.datasets.ucf_crime import ucf_crime
from violence_detection.datasets.xd_violence import xd_violence
from violence_detection.errors import UserError


class Reader(Protocol):
    """Reads one format.

    Args:
        source: the data set's folder, or the annotation file.
        manifest_folder: the folder of the manifest that will be written; paths are relative to it.
        videos: the folder in which the annotated videos are looked for, by name at any depth;
            None: the folder of the annotation file. A folder of clips needs none.

    Returns:
        None if `source` is of another format, judged by its content and not by its name.

    Raises:
        UserError: `source` is of the format, but what it says is impossible: names file, line or
            item, value and way out.
    """

    def __call__(self, source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
        """Return the rows."""


class Format(NamedTuple):
    """A format by its name in messages."""

    name: str
    read: Reader


def of_clips(read: Callable[[Path, Path], Imported | None]) -> Reader:
    """Return the reader of a data set that is a folder of clips."""

    def reader(source: Path, manifest_folder: Path, videos: Path | None) -> Imported | None:
        imported = read(source, manifest_folder)
        if imported is not None and videos is not None:
            raise UserError(
                f"{source} ({imported.format}) contains its clips, so no other folder of videos "
                f"is needed: leave out {videos}"
            )
        return imported

    return reader


FORMATS: tuple[Format, ...] = (
    Format("Hockey Fight", of_clips(folders.hockey_fight)),
    Format("RWF-2000", of_clips(folders.rwf_2000)),
    Format("Real Life Violence Situations", of_clips(folders.real_life_violence)),
    Format("AIRTLab", of_clips(folders.airtlab)),
    Format("Violent Flows", of_clips(folders.violent_flows)),
    Format("SCVD", of_clips(folders.scvd)),
    Format("UCF-Crime", ucf_crime),
    Format("XD-Violence", xd_violence),
    Format("CCTV-Fights", cctv_fights),
    Format("UBI-Fights", ubi_fights),
    Format("CVAT", cvat),
    Format("Label Studio", label_studio),
    Format("FiftyOne", fiftyone),
    Format("VIA", via),
)


def read(source: Path, manifest_folder: Path, videos: Path | None = None) -> Imported:
    """Return the rows of a manifest from a data set's folder or an annotation file.

    Args:
        source, manifest_folder, videos: see `Reader`.

    Raises:
        UserError: there is no such file or folder; no format or more than one fits; none of the
            videos was found; or what the file says is impossible.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if videos is not None and not videos.is_dir():
        raise UserError(f"{videos}: no such folder")
    found = [
        imported
        for format_ in FORMATS
        if (imported := format_.read(source, manifest_folder, videos)) is not None
    ]
    if not found:
        _require_valid_json(source)
        raise UserError(
            f"{source} has none of the formats {', '.join(each.name for each in FORMATS)}. "
            "A folder with violent and nonviolent folders needs no import"
        )
    if len(found) > 1:
        raise UserError(
            f"{source} may be {' or '.join(each.format for each in found)}: "
            "name the folder or file of one of them"
        )
    imported = found[0]
    if imported.missing and not imported.rows:
        raise UserError(
            f"{source} ({imported.format}): none of its videos was found, first "
            f"{imported.missing[0]}: name the folder of the videos"
        )
    return imported


def _require_valid_json(source: Path) -> None:
    """Raise `UserError` with the place of the first fault, if a file is meant to be JSON."""
    if source.suffix.lower() != ".json":
        return
    try:
        json.loads(text_of(source) or "")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {error}") from error
