"""What an importer returns."""

from dataclasses import dataclass, field

from violence_detection.clips.manifest import ManifestRow


@dataclass(frozen=True)
class Imported:
    """The rows of a manifest, from a data set's folder or an annotation file.

    Args:
        format: the name of the data set or the tool, as messages have it.
        rows: the clips. If `are_events`, the violent rows are the annotated events of long
            videos, and a nonviolent row without times is a video without any.
        are_events: make training clips of them with `--window`.
        missing: videos that the annotations name and that were not found.
        notes: what was left out, and why; one line each.
    """

    format: str
    rows: list[ManifestRow]
    are_events: bool = False
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
