"""A small synthetic dataset for --demo: two figures who fight, or who walk and stand.

Real video files on disk, in split folders. Both classes have the same colours, sizes and
positions; they differ only in how the figures move.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from violence_detection.errors import RunError, UserError
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.locks import locked

CLIPS_PER_CLASS = {"train": 90, "val": 20, "test": 20}
WIDTH, HEIGHT, FRAMES_PER_SECOND, SECONDS = 256, 192, 12, 2
FLOOR = HEIGHT - 24  # y of the feet in pixels, from the top
SEED = 7

# One figure at one moment: position, lean, arms and legs. Angles in degrees from hanging down,
# forwards positive; a reach is how far an arm is stretched, from 0 to 1.
Pose = dict[str, float]
Story = Callable[[float], tuple[Pose, Pose]]  # the poses of both figures at a time in seconds


def draw_demo_clips(folder: Path) -> None:
    """Draw the dataset into `folder`, unless it is complete already.

    Args:
        folder: made if need be.

    Raises:
        UserError: the folder contains something else.
        RunError: OpenCV cannot write mp4 files.
    """
    begun, complete = folder / ".demo_begun", folder / ".demo_complete"
    if complete.exists():
        return
    if folder.exists() and any(folder.iterdir()) and not begun.exists():
        raise UserError(
            f"--demo draws its clips into {folder}, which is not empty: omit --dataset-path, or "
            "omit --demo to train on the clips there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    begun.touch()
    with locked(folder):  # waits for another run that is drawing them
        if not complete.exists():
            _draw_all(folder)
            complete.touch()


def _draw_all(folder: Path) -> None:
    random = np.random.default_rng(SEED)
    for split, count in CLIPS_PER_CLASS.items():
        for class_name in CLASS_NAMES:
            (folder / split / class_name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                path = folder / split / class_name / f"{class_name}_{number:02d}.mp4"
                draw_clip(path, class_name == "violent", random)


def draw_clip(path: Path, violent: bool, random: np.random.Generator) -> None:
    """Draw one clip of two seconds.

    Args:
        path: of the mp4 file.
        violent: whether the figures fight.
        random: decides everything else.

    Raises:
        RunError: OpenCV cannot write mp4 files.
    """
    images = drawn_images([violent], random)
    partial = path.with_name(f".{path.name}")
    writer = cv2.VideoWriter(
        str(partial), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, (WIDTH, HEIGHT)
    )
    if not writer.isOpened():
        raise RunError(f"{path}: this build of OpenCV cannot write mp4 files")
    for image in images:
        writer.write(image)
    writer.release()
    partial.replace(path)


def drawn_images(
    violent: Sequence[bool],
    random: np.random.Generator,
    frames_per_second: int = FRAMES_PER_SECOND,
    seconds: int = SECONDS,
) -> Iterator[np.ndarray]:
    """Yield the frames of a scene, `(HEIGHT, WIDTH, 3)` uint8 BGR.

    Args:
        violent: of each part of the scene, one after the other, whether the figures fight.
        random: decides everything else.
        frames_per_second: that are drawn.
        seconds: that a part lasts.
    """
    stories = [_fight(random) if fights else _peace(random) for fights in violent]
    background = _background(random)
    colours = random.integers(0, 100, (2, 3))
    size = random.uniform(1.5, 1.7)
    for story in stories:
        for number in range(frames_per_second * seconds):
            image = background.copy()
            poses = story(number / frames_per_second)
            for pose, facing, colour in zip(poses, (1, -1), colours, strict=True):
                _draw_figure(image, pose, facing, size, tuple(int(value) for value in colour))
            yield image


def _fight(random: np.random.Generator) -> Story:
    """Two figures close to each other, striking and shoving in turn, staggering when hit."""
    middle, gap = random.uniform(0.42, 0.58) * WIDTH, random.uniform(56, 70)
    rate, start = random.uniform(2.2, 3.2), random.uniform(0, 1)  # blows a second
    shove = random.random(16) < 0.35
    left_begins = int(random.integers(2))

    def story(time: float) -> tuple[Pose, Pose]:
        blow, phase = divmod(time * rate + start, 1)
        strike = float(np.sin(np.pi * min(phase / 0.5, 1)) ** 2)  # out and back in half a period
        hit = float(np.sin(np.pi * np.clip((phase - 0.2) / 0.7, 0, 1)))
        attacker = (int(blow) + left_begins) % 2
        shoving = shove[int(blow) % len(shove)]
        poses = []
        for figure, facing in enumerate((1, -1)):
            x = middle - facing * gap / 2
            if figure == attacker:
                pose = _standing(x + facing * 15 * strike)
                pose |= {"lean": 16 * strike, "front_arm": 70 + 30 * strike}
                pose |= {"front_reach": 0.45 + 0.55 * strike, "stride": 24 * strike}
                pose |= {"back_arm": 60 + 35 * strike * shoving}
                pose |= {"back_reach": 0.45 + 0.5 * strike * shoving}
            else:
                pose = _standing(x - facing * (22 + 16 * shoving) * hit)
                pose |= {"lean": -28 * hit, "front_arm": 60 + 60 * hit, "back_arm": 50 - 70 * hit}
                pose |= {"front_reach": 0.5, "back_reach": 0.5 + 0.4 * hit, "stride": 30 * hit}
            poses.append(pose)
        return poses[0], poses[1]

    return story


def _peace(random: np.random.Generator) -> Story:
    """Two figures who each walk or stand, their arms swinging or hanging."""
    walks = random.random(2) < 0.6
    begin = random.uniform(0.2, 0.8, 2) * WIDTH
    speed = random.uniform(12, 30, 2) * random.choice([-1, 1], 2) * walks  # pixels a second
    pace, start = random.uniform(0.8, 1.3, 2), random.uniform(0, 1, 2)  # steps a second
    gesture = random.uniform(0, 20, 2)

    def story(time: float) -> tuple[Pose, Pose]:
        poses = []
        for figure in range(2):
            wave = float(np.sin(2 * np.pi * (pace[figure] * time + start[figure])))
            swing = wave if walks[figure] else 0.0
            pose = _standing(float(begin[figure] + speed[figure] * time))
            pose |= {"front_arm": 16 * swing + gesture[figure] * (not walks[figure])}
            pose |= {"back_arm": -16 * swing, "stride": 12 * swing, "lean": 1.5 * wave}
            poses.append(pose)
        return poses[0], poses[1]

    return story


def _standing(x: float) -> Pose:
    return {
        "x": x,
        "lean": 0.0,
        "front_arm": 0.0,
        "front_reach": 0.95,
        "back_arm": 0.0,
        "back_reach": 0.95,
        "stride": 0.0,
    }


def _background(random: np.random.Generator) -> np.ndarray:
    """Return `(HEIGHT, WIDTH, 3)` uint8: a rough wall and a floor in shades of grey."""
    wall, floor = random.uniform(146, 154), random.uniform(96, 104)
    image = np.full((HEIGHT, WIDTH, 3), wall, np.float32)
    image[FLOOR - 14 :] = floor
    image += np.linspace(-12, 12, WIDTH, dtype=np.float32)[None, :, None]
    return (image + random.normal(0, 3, image.shape)).astype(np.uint8)


def _draw_figure(
    image: np.ndarray, pose: Pose, facing: int, size: float, colour: tuple[int, ...]
) -> None:
    thick = max(2, round(7 * size))

    def limb(start: np.ndarray, angle: float, length: float) -> np.ndarray:
        radians = np.deg2rad(angle)
        end = start + length * size * np.array([facing * np.sin(radians), np.cos(radians)])
        points = [tuple(round(float(value)) for value in point) for point in (start, end)]
        cv2.line(image, points[0], points[1], colour, thick, cv2.LINE_AA)
        return end

    hip = np.array([pose["x"], FLOOR - 42 * size])
    limb(hip, pose["stride"], 42)
    limb(hip, -pose["stride"], 42)
    shoulder = limb(hip, 180 - pose["lean"], 40)
    for arm in ("back", "front"):
        # The less an arm reaches, the more its elbow bends.
        bend = np.rad2deg(np.arccos(np.clip(pose[f"{arm}_reach"], 0, 1)))
        angle = pose[f"{arm}_arm"] + pose["lean"]
        elbow = limb(shoulder, angle - bend, 17)
        limb(elbow, angle + bend, 17)
    head = limb(shoulder, 180 - pose["lean"], 9)
    centre = (round(float(head[0])), round(float(head[1])))
    cv2.circle(image, centre, max(3, round(9 * size)), colour, -1, cv2.LINE_AA)
