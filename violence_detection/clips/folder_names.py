"""What a folder's name says: a class, a split, or that it is no part of a dataset."""

import re

# Word stems; a word that begins with one of them is of that class.
VIOLENT_STEMS = ("violen", "fight", "assault", "aggress", "brawl")
NONVIOLENT_STEMS = ("normal", "peace", "calm", "safe")
NEGATIONS = ("non", "not", "no", "without", "un")
SPLITS_BY_NAME = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Of archives, network disks and operating systems.
SYSTEM_NAMES = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
    "system volume information",
}


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder is hidden or the system's: nothing a user has put there."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def class_of(name: str) -> int | None:
    """Return the class that a folder's name says: 1 violent, 0 nonviolent, None neither or both.

    "No Fighting", "not_fight", "NonViolence", "Normal Videos" and "safe" are nonviolent;
    "Violent Videos", "fights" and "assault_clips" are violent.
    """
    labels = _classes_of(name)
    return labels.pop() if len(labels) == 1 else None


def is_ambiguous(name: str) -> bool:
    """Return whether a folder's name says both classes, as "fights and normal" does."""
    return len(_classes_of(name)) > 1


def _classes_of(name: str) -> set[int]:
    labels: list[int] = []
    negated = False
    for word in _words(name):
        if word in NEGATIONS:
            negated = True
        elif word == "free" and labels:  # "violence-free"
            labels[-1] = 0
        elif (label := _class_of_word(word)) is not None:
            labels.append(1 - label if negated else label)
            negated = False
    return set(labels)


def split_of(name: str) -> str | None:
    """Return the split that a folder's name says; None if it says none."""
    return SPLITS_BY_NAME.get("".join(_words(name)))


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: "NonFight_2" is "non", "fight", "2"."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)
    return [word.lower() for word in words]


def _class_of_word(word: str) -> int | None:
    if word.startswith(VIOLENT_STEMS):
        return 1
    if word.startswith(NONVIOLENT_STEMS):
        return 0
    for negation in NEGATIONS:  # as in "nonviolent", which is one word
        rest = word.removeprefix(negation)
        if rest != word and rest.startswith(VIOLENT_STEMS):
            return 0
    return None
