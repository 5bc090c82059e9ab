"""What the clips of a run were, in words: how many, of what, from where, what was seen of them."""

from violence_detection.reporting.finished_run import ALL_SPLITS, FinishedRun
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import CLASS_NAMES, SPLITS

STREAMS = {
    "rgb": "as they are",
    "difference": "as differences from the frame before",
    "flow": "as optical flow",
}
USES = {"train": "to train on", "val": "to validate", "test": "to test"}


def clips_in_words(run: FinishedRun) -> list[str]:
    """Return sentences about the clips of a run: their number, classes, sources, splits, frames."""
    results, settings = run.results, run.settings
    counts = {split: results["clips"][split] for split in SPLITS if split in results["clips"]}
    total = sum(sum(of_split.values()) for of_split in counts.values())
    violent = sum(of_split[CLASS_NAMES[1]] for of_split in counts.values())
    noun = "video" if settings.get("weak") else "clip"
    words = f"{count_of(total, noun)}, {_percent(violent, total)} violent"
    if (seconds := results.get("clip_seconds")) and noun == "clip":
        words += f", of about {seconds:.1f} s"
    sources = run.sources.get(ALL_SPLITS, total)
    if sources < total:
        words += f", from {count_of(sources, 'source')}"
    shares = {split: sum(of_split.values()) for split, of_split in counts.items()}
    if results.get("folds", 1) > 1:
        known = shares.pop("train", 0) + shares.pop("val", 0)
        uses = [f"{known:,} to train on and to validate by turns"]
    else:
        uses = []
    uses += [f"{number:,} {USES[split]}" for split, number in shares.items()]
    sentences = [f"{words}: {', '.join(uses)}."]
    seen = [STREAMS[stream] for stream in settings.get("streams", []) if stream in STREAMS]
    if seen:
        frames = count_of(settings["frames"], "frame")
        sentences.append(f"Of each, {frames} were seen, {_listed(seen)}.")
    if bad := len(results.get("bad_clips", [])):
        sentences.append(f"{count_of(bad, noun)} could not be read.")
    return sentences


def _percent(part: int, whole: int) -> str:
    """Return a share as whole percent; 0 and 100 only of none and all."""
    percent = round(100 * part / max(1, whole))
    return f"{min(max(percent, int(part > 0)), 100 - int(part < whole))}%"


def _listed(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
