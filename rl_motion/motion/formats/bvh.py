"""BVH files: any hierarchy, any order of channels -> a recording (NumPy).

The hierarchy is words, the motion is numbers; blanks, tabs, line ends, upper and lower case do not matter, and what
follows `#` or `//` is comment. Angles are degrees. A joint's channels are applied in their order: `Zrotation Xrotation
Yrotation` is Rz Rx Ry. Position channels take the place of a joint's OFFSET, as Blender and MotionBuilder have it;
where those of the joints below the root are far shorter than their OFFSETs, they are added to them, and a note says so.
Lengths are in the file's unit: BVH does not name one.

An `End Site` becomes a joint named `<parent>_end`: the toes of some skeletons are nothing else.
Shape legend: F frames, J joints, C channels of a frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rl_motion.config import UserError
from rl_motion.motion.formats.recording import (
    MAX_JOINTS,
    Recording,
    axis_rotation,
    forward_kinematics,
    read_text,
    refuse_too_large,
    shown,
)
from rl_motion.motion.rotations import FloatArray

_AXES = {"x": 0, "y": 1, "z": 2}
_COMMENT = re.compile(r"(?:^|\s)(?:#|//).*")
_WHOLE_FPS = 5e-4
"""`Frame Time: 0.0083333` means 120 frames per second; 29.97 is not 30."""
MAX_SECONDS_PER_FRAME = 10.0
_SMALL = 0.3
"""Of the bones' lengths: positions below are moves."""


@dataclass(slots=True)
class _Joint:
    name: str
    parent: int
    line: int
    offset: tuple[float, float, float] | None = None
    channels: list[tuple[str, int]] | None = None
    """Of each channel: `position` or `rotation`, and the axis."""
    end: bool = False


@dataclass(slots=True)
class _Words:
    """The words of a file, one after the other, each with its line."""

    path: Path
    lines: list[str]
    row: int = 0
    waiting: list[str] = field(default_factory=list)

    def next(self, wanted: str) -> str:
        """The next word.

        Raises:
            UserError: the file ends here.
        """
        while not self.waiting:
            if self.row >= len(self.lines):
                raise self.wrong("the end of the file", wanted, "it is cut off: export it again")
            self.waiting = re.findall(r"[{}]|[^\s{}]+", _COMMENT.sub("", self.lines[self.row]))[::-1]
            self.row += 1
        return self.waiting.pop()

    def rest(self) -> str:
        """What else stands on the line, up to a brace: names may have blanks."""
        words = []
        while self.waiting and self.waiting[-1] not in {"{", "}"}:
            words.append(self.waiting.pop())
        return " ".join(words)

    def expect(self, word: str) -> None:
        """Read this word.

        Raises:
            UserError: another one stands there.
        """
        got = self.next(repr(word))
        if got.lower() != word.lower():
            raise self.wrong(shown(got), repr(word), "mend the file, or export it again")

    def number(self, wanted: str) -> float:
        """Read a finite number.

        Raises:
            UserError: something else stands there.
        """
        got = self.next(wanted)
        value = _number(got)
        if value is None or not np.isfinite(value):
            raise self.wrong(shown(got), f"{wanted}, a finite number", _comma(got))
        return value

    def wrong(self, got: str, wanted: str, todo: str) -> UserError:
        """An error at this place."""
        return UserError(f"got {self.path}, line {self.row}: {got}; want {wanted}; {todo}")


def read_bvh(path: str | Path) -> Recording:
    """Read one file.

    Raises:
        UserError: it cannot be read or is no whole BVH file; the message names the line.
    """
    path = Path(path)
    words = _Words(path, read_text(path).splitlines())
    joints = _hierarchy(words)
    channels_C = [(index, *channel) for index, joint in enumerate(joints) for channel in joint.channels or ()]
    frames, frame_seconds = _motion_header(words)
    values_FC = _values(words, frames, len(channels_C))
    refuse_too_large(path, len(joints), frames)
    return _recording(joints, channels_C, values_FC, frame_seconds)


def _hierarchy(words: _Words) -> list[_Joint]:
    words.expect("HIERARCHY")
    words.expect("ROOT")
    joints = [_Joint(_name(words), -1, words.row)]
    words.expect("{")
    inside = [0]
    while inside:
        _entry(words, joints, inside)
    names = set[str]()
    for joint in joints:
        if joint.name in names:
            raise words.wrong(
                f"two joints with the name {shown(joint.name)}, the second in line {joint.line}",
                "every joint to have its own",
                "rename one",
            )
        names.add(joint.name)
    return joints


def _entry(words: _Words, joints: list[_Joint], inside: list[int]) -> None:
    """Read one entry of the innermost open joint: OFFSET, CHANNELS, a child, or its closing brace."""
    joint = joints[inside[-1]]
    word = words.next("OFFSET, CHANNELS, JOINT, End Site or '}'")
    match word.lower():
        case "offset" if joint.offset is None:
            joint.offset = (words.number("x"), words.number("y"), words.number("z"))
        case "channels" if joint.channels is None and not joint.end:
            joint.channels = _channels(words, joint.name)
        case "joint" | "end" if not joint.end:
            if len(joints) >= MAX_JOINTS:
                raise words.wrong(f"more than {MAX_JOINTS} joints", "fewer", "export the body alone")
            if word.lower() == "end":
                words.rest()
                child = _Joint(_end_name(joint.name, joints), inside[-1], words.row, end=True)
            else:
                child = _Joint(_name(words), inside[-1], words.row)
            joints.append(child)
            words.expect("{")
            inside.append(len(joints) - 1)
        case "}":
            if joint.offset is None:
                raise words.wrong(f"{shown(joint.name)} without an OFFSET", "one", "mend the file, or export it again")
            inside.pop()
        case _:
            raise words.wrong(
                f"{shown(word)} in {shown(joint.name)}",
                "one OFFSET, one CHANNELS, then JOINT, End Site or '}'",
                "mend the file, or export it again",
            )


def _name(words: _Words) -> str:
    name = words.rest()
    if not name:
        raise words.wrong("a joint without a name", "a name on the line of ROOT or JOINT", "name it")
    return name


def _end_name(parent: str, joints: list[_Joint]) -> str:
    taken = {joint.name for joint in joints if joint.end}
    name, number = f"{parent}_end", 2
    while name in taken:
        name, number = f"{parent}_end{number}", number + 1
    return name


def _channels(words: _Words, owner: str) -> list[tuple[str, int]]:
    wanted = "0 to 6, the number of channels"
    count = words.number(wanted)
    if count != int(count) or not 0 <= count <= 6:
        raise words.wrong(f"{count:g} channels of {shown(owner)}", wanted, "mend the file, or export it again")
    channels = list[tuple[str, int]]()
    for _ in range(int(count)):
        word = words.next("the name of a channel")
        found = re.fullmatch(r"([xyz])(position|rotation)", word, re.IGNORECASE)
        channel = (found[2].lower(), _AXES[found[1].lower()]) if found else None
        if channel is None or channel in channels:
            raise words.wrong(
                f"{shown(word)} among the {int(count)} channels of {shown(owner)}",
                "Xposition, Yposition, Zposition, Xrotation, Yrotation, Zrotation, each at most once",
                "mend the number or the names",
            )
        channels.append(channel)
    return channels


def _motion_header(words: _Words) -> tuple[int, float]:
    """The number of frames that the file claims, and the seconds between them."""
    word = words.next("MOTION")
    if word.lower() == "root":
        raise words.wrong(
            f"a second ROOT, {shown(words.rest())}", "one skeleton in a file", "export each performer to its own file"
        )
    if word.lower() != "motion":
        raise words.wrong(shown(word), "MOTION after the hierarchy", "mend the braces, or export it again")
    frames = _labelled(words, ("frames",), "Frames: and a whole number")
    if frames != int(frames) or frames < 1:
        raise words.wrong(f"Frames: {frames:g}", "a frame or more", "export it again with its motion")
    seconds = _labelled(words, ("frame", "time"), "Frame Time: and the seconds of a frame")
    if not 0 < seconds <= MAX_SECONDS_PER_FRAME:
        raise words.wrong(
            f"Frame Time: {seconds:g}", f"seconds above 0, at most {MAX_SECONDS_PER_FRAME:g}", "mend the number"
        )
    return int(frames), seconds


def _labelled(words: _Words, label: tuple[str, ...], wanted: str) -> float:
    """The number after `Frames:` or `Frame Time:`, wherever the blanks are."""
    for part in label[:-1]:
        got = words.next(wanted)
        if got.lower() != part:
            raise words.wrong(shown(got), wanted, "mend the file, or export it again")
    got = words.next(wanted)
    name, colon, number = got.partition(":")
    if name.lower() != label[-1]:
        raise words.wrong(shown(got), wanted, "mend the file, or export it again")
    if not colon:
        words.expect(":")
    if number:
        words.waiting.append(number)
    return words.number(wanted)


def _values(words: _Words, frames: int, channels: int) -> FloatArray:
    """The numbers [F, C] of the motion. Memory grows with what the file has, not with what its header claims."""
    if channels == 0:
        raise words.wrong("no channels in the hierarchy", "some", "export it again with its motion")
    rows, odd = list[FloatArray](), 0
    for row, line in enumerate(_rest_of_lines(words), start=words.row):
        numbers = _row(words, row, line)
        if len(numbers):
            rows.append(numbers)
            if len(numbers) != channels and not odd:
                odd = row
                least = f"line {row} has {len(numbers)} numbers where the hierarchy has {channels} channels"
    values = np.concatenate(rows) if rows else np.zeros(0)
    if len(values) != frames * channels:
        whole = f"{len(values)} numbers" + (f" ({least})" if odd else f", {len(values) // channels} frames")
        raise words.wrong(
            f"Frames: {frames}, but {whole}",
            f"{frames} x {channels} numbers",
            "the file is cut off or damaged: export it again",
        )
    return values.reshape(frames, channels)


def _rest_of_lines(words: _Words) -> Iterator[str]:
    yield " ".join(words.waiting[::-1])
    words.waiting = []
    yield from words.lines[words.row :]


def _row(words: _Words, row: int, line: str) -> FloatArray:
    parts = (_COMMENT.sub("", line) if "#" in line or "/" in line else line).split()
    try:
        if "_" in line:  # which Python allows within numbers
            raise ValueError
        return np.array(parts, dtype=np.float64)
    except ValueError:
        bad = next(part for part in parts if _number(part) is None)
        words.row = row
        raise words.wrong(shown(bad), "numbers alone after Frame Time", _comma(bad)) from None


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _comma(text: str) -> str:
    if re.fullmatch(r"[-+]?\d*,\d+", text):
        return "write decimal points, not commas"
    return "mend the file, or export it again"


def _recording(
    joints: list[_Joint], channels_C: list[tuple[int, str, int]], values_FC: FloatArray, frame_seconds: float
) -> Recording:
    offsets_J3 = np.array([joint.offset for joint in joints], dtype=np.float64)
    offsets_FJ3 = np.repeat(offsets_J3[None], len(values_FC), axis=0)
    rotations_FJ33 = np.tile(np.eye(3), (len(values_FC), len(joints), 1, 1))
    # A number too large to turn by becomes NaN, which is then a fault of that frame.
    with np.errstate(invalid="ignore", over="ignore"):
        for column, (joint, kind, axis) in enumerate(channels_C):
            if kind == "rotation":
                turn_F33 = axis_rotation(axis, np.radians(values_FC[:, column]))
                rotations_FJ33[:, joint] = rotations_FJ33[:, joint] @ turn_F33
            else:
                offsets_FJ3[:, joint, axis] = values_FC[:, column]
        placed = [(joint, axis) for joint, kind, axis in channels_C if kind == "position" and joint > 0]
        added = _are_added(offsets_FJ3, offsets_J3, placed)
        if added:
            for joint, axis in placed:
                offsets_FJ3[:, joint, axis] += offsets_J3[joint, axis]
        parents = tuple(joint.parent for joint in joints)
        positions_FJ3 = forward_kinematics(parents, offsets_FJ3, rotations_FJ33)
    return Recording(
        names=tuple(joint.name for joint in joints),
        parents=parents,
        positions_FJ3=positions_FJ3,
        fps=frame_rate(frame_seconds),
        offsets_J3=offsets_J3,
        rotations_FJ33=rotations_FJ33,
        ends=frozenset(index for index, joint in enumerate(joints) if joint.end),
        notes=("positions below the root are small: they are added to the offsets",) if added else (),
    )


def frame_rate(frame_seconds: float) -> float:
    """Frames per second; whole where the seconds are a whole rate's, rounded."""
    fps = 1.0 / frame_seconds
    return float(round(fps)) if abs(fps - round(fps)) < _WHOLE_FPS * fps else fps


def _are_added(placed_FJ3: FloatArray, offsets_J3: FloatArray, placed: list[tuple[int, int]]) -> bool:
    """Whether positions of joints below the root are no bones, which are as long as the offsets, but small moves."""
    joints = sorted({joint for joint, _ in placed})
    moves_FJ3 = np.zeros_like(placed_FJ3)
    bones_J3 = np.zeros_like(offsets_J3)
    for joint, axis in placed:
        moves_FJ3[:, joint, axis], bones_J3[joint, axis] = placed_FJ3[:, joint, axis], offsets_J3[joint, axis]
    moved = float(np.median(np.linalg.norm(moves_FJ3[:, joints], axis=-1).sum(axis=1)))
    return bool(moved < _SMALL * float(np.linalg.norm(bones_J3, axis=-1).sum()))
