"""ASF and AMC files (Acclaim): a skeleton and its motions -> a recording (NumPy).

The AMC's skeleton is the ASF of the same name beside it (`01_01.amc`: `01_01.asf`, else `01.asf`), or the only ASF of
its folder. A bone's local rotation is C M C^-1: C of its `axis`, M of its degrees of freedom, both about fixed axes in
the order that is written, so that `XYZ` is Rz Ry Rx; a bone is turned at its start. Hence joints stand where bones
start and are named after them, and the last bones have ends (`<bone>_end`). Lengths are in the file's unit; AMC files
do not tell their frame rate.

Source: Acclaim Skeleton File Definition 1.10. Not read: limits, masses, and lengths that change (`l`).
Shape legend: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

ASSUMED_FPS = 120.0
"""Of most of the CMU database."""
_DEGREES_OF_FREEDOM = ("rx", "ry", "rz", "tx", "ty", "tz", "l")
_ROOT = "root"
_MEND = "mend the file, or export it again"


@dataclass(slots=True)
class _Bone:
    name: str
    offset_3: FloatArray
    """From its start to its end, at rest, in the world's axes."""
    axis_33: FloatArray
    order: tuple[str, ...]
    """Its degrees of freedom, in the order of the AMC's numbers."""


@dataclass(slots=True)
class _Skeleton:
    bones: dict[str, _Bone]
    parents: dict[str, str]
    degrees: bool


def read_amc(path: str | Path, skeleton: str | Path | None = None) -> Recording:
    """Read one motion with its skeleton.

    Args:
        path: the AMC file.
        skeleton: its ASF file; looked for where none is given.

    Raises:
        UserError: one of both cannot be read, is not whole, or they do not belong together; the message names the line.
    """
    path = Path(path)
    asf = Path(skeleton) if skeleton is not None else find_asf(path)
    known = _read_asf(asf)
    values = _read_motion(path, known)
    refuse_too_large(path, len(known.bones), len(values))
    return _recording(known, values)


def find_asf(path: Path) -> Path:
    """The skeleton of an AMC file.

    Raises:
        UserError: there is none, or several of which none has its name.
    """
    subject = path.stem.rpartition("_")[0]
    there = sorted(other for other in path.parent.iterdir() if other.suffix.lower() == ".asf")
    for stem in (path.stem, subject):
        for other in there:
            if other.stem.lower() == stem.lower():
                return other
    if len(there) == 1:
        return there[0]
    got = f"{len(there)} skeletons, none of which has its name" if there else "no skeleton"
    raise UserError(f"got {path} with {got} beside it; want {path.stem}.asf or {subject or 'one'}.asf; put it there")


class _Lines:
    """A file's lines as words, comments left out, each with its number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._lines = read_text(path).splitlines()

    def __iter__(self) -> Iterator[list[str]]:
        for number, line in enumerate(self._lines, start=1):
            self._number = number
            words = line.partition("#")[0].replace("(", " ").replace(")", " ").split()
            if words:
                yield words

    def wrong(self, got: str, wanted: str, todo: str = _MEND) -> UserError:
        """An error at this line."""
        return UserError(f"got {self._path}, line {self._number}: {got}; want {wanted}; {todo}")

    def numbers(self, words: Sequence[str], count: int, of: str) -> list[float]:
        """So many numbers, which may be NaN."""
        try:
            if len(words) != count or any("_" in word for word in words):
                raise ValueError
            return [float(word) for word in words]
        except ValueError:
            raise self.wrong(shown(" ".join(words)), f"{count} numbers of {of}") from None

    def finite(self, words: Sequence[str], count: int, of: str) -> list[float]:
        """So many numbers, none of which is NaN or infinite."""
        values = self.numbers(words, count, of)
        if not np.isfinite(values).all():
            raise self.wrong(shown(" ".join(words)), f"{count} finite numbers of {of}")
        return values


def _read_asf(path: Path) -> _Skeleton:
    lines = _Lines(path)
    found = _Skeleton({_ROOT: _Bone(_ROOT, np.zeros(3), np.eye(3), ())}, {}, degrees=True)
    section, bone = "", dict[str, list[str]]()
    for words in lines:
        word = words[0].lower()
        if word.startswith(":"):
            section = word
        elif section == ":units" and word == "angle":
            found.degrees = len(words) < 2 or words[1].lower() != "rad"
        elif section == ":root":
            _read_root(lines, found, word, words[1:])
        elif section == ":bonedata":
            if word == "end":
                _add_bone(lines, found, bone)
            if word in {"begin", "end"}:
                bone = {}
            else:
                bone[word] = words[1:]
        elif section == ":hierarchy" and word not in {"begin", "end"}:
            _add_children(lines, found, words)
    _check_tree(lines, found)
    return found


def _read_root(lines: _Lines, found: _Skeleton, word: str, rest: list[str]) -> None:
    root = found.bones[_ROOT]
    if word == "order":
        root.order = _order(lines, rest)
    elif word == "orientation":
        angles = lines.finite(rest, 3, "the root's orientation")
        root.axis_33 = _turns("xyz", np.array(angles), degrees=found.degrees)
    # Its position moves the world alone.


def _add_bone(lines: _Lines, found: _Skeleton, said: Mapping[str, list[str]]) -> None:
    """Add what stood between `begin` and `end`."""
    name = " ".join(said.get("name", []))
    if not name or name in found.bones:
        raise lines.wrong(f"a bone with the name {shown(name)}", "every bone to have a name of its own")
    if len(found.bones) >= MAX_JOINTS:
        raise lines.wrong(f"more than {MAX_JOINTS} bones", "fewer", "export the body alone")
    for need in ("direction", "length", "axis"):
        if need not in said:
            raise lines.wrong(f"the bone {shown(name)} without {need}", "name, direction, length and axis")
    direction_3 = np.array(lines.finite(said["direction"], 3, "the direction"))
    length = lines.finite(said["length"], 1, "the length")[0]
    *angles, axes = said["axis"] or [""]
    if sorted(axes.lower()) != ["x", "y", "z"]:
        raise lines.wrong(f"the axis {shown(' '.join(said['axis']))}", "three angles and an order such as XYZ")
    axis_33 = _turns(axes.lower(), np.array(lines.finite(angles, 3, "the axis")), degrees=found.degrees)
    found.bones[name] = _Bone(name, direction_3 * length, axis_33, _order(lines, said.get("dof", [])))


def _order(lines: _Lines, words: Sequence[str]) -> tuple[str, ...]:
    order = tuple(word.lower() for word in words)
    if len(set(order)) != len(order) or not set(order) <= set(_DEGREES_OF_FREEDOM):
        raise lines.wrong(shown(" ".join(words)), f"some of {', '.join(_DEGREES_OF_FREEDOM)}, each once")
    return order


def _add_children(lines: _Lines, found: _Skeleton, words: Sequence[str]) -> None:
    parent, *children = words
    for name in words:
        if name not in found.bones:
            raise lines.wrong(f"the bone {shown(name)}, which :bonedata does not have", "bones that it has")
    for child in children:
        if child in found.parents or child == _ROOT:
            raise lines.wrong(f"{shown(child)} below {shown(parent)}", "every bone but root to have one parent")
        found.parents[child] = parent


def _check_tree(lines: _Lines, found: _Skeleton) -> None:
    """Every bone must hang on the root: a bone that is its own ancestor never does."""
    if len(found.bones) < 2:
        raise lines.wrong("no bones", "a skeleton with :root, :bonedata and :hierarchy", "it is cut off: fetch it anew")
    children: dict[str, list[str]] = {}
    for child, parent in found.parents.items():
        children.setdefault(parent, []).append(child)
    reached, open_ = {_ROOT}, [_ROOT]
    while open_:
        below = children.get(open_.pop(), [])
        reached.update(below)
        open_ += below
    if lost := [name for name in found.bones if name not in reached]:
        raise lines.wrong(
            f"{len(lost)} bones that do not hang on root, {shown(lost[0])} the first", "one tree without cycles"
        )


def _read_motion(path: Path, skeleton: _Skeleton) -> list[dict[str, list[float]]]:
    """The numbers of every bone, frame by frame; a bone that a frame does not name keeps still."""
    lines = _Lines(path)
    frames = list[dict[str, list[float]]]()
    degrees = skeleton.degrees
    for words in lines:
        word = words[0]
        if word.startswith(":"):
            degrees = {":degrees": True, ":radians": False}.get(word.lower(), degrees)
        elif len(words) == 1 and word.isdecimal():
            _check_frame(lines, skeleton, frames)
            if len(word) > 9 or int(word) != len(frames) + 1:
                raise lines.wrong(f"frame {shown(word)} after {len(frames)} frames", f"frame {len(frames) + 1}")
            frames.append({})
        elif not frames:
            raise lines.wrong(shown(" ".join(words)), "the number of a frame, alone on its line, first")
        elif word not in skeleton.bones:
            raise lines.wrong(f"the bone {shown(word)}, which the skeleton does not have", "its bones", "find its ASF")
        elif word in frames[-1]:
            raise lines.wrong(f"the bone {shown(word)} a second time in frame {len(frames)}", "each once")
        else:
            frames[-1][word] = lines.numbers(words[1:], len(skeleton.bones[word].order), f"the bone {shown(word)}")
    if not frames:
        raise lines.wrong("no frames", "one or more", "it is cut off: fetch it anew")
    _check_frame(lines, skeleton, frames)
    skeleton.degrees = degrees
    return frames


def _check_frame(lines: _Lines, skeleton: _Skeleton, frames: Sequence[Mapping[str, object]]) -> None:
    """The last frame must have what the first one has: else the file is cut off."""
    if frames and (lacks := [bone for bone in frames[0] if bone not in frames[-1]]):
        raise lines.wrong(
            f"frame {len(frames)} without {shown(lacks[0])}", "every frame to have the bones of the first"
        )
    if len(frames) == 1 and _ROOT not in frames[0]:
        raise lines.wrong("frame 1 without root", "the root in every frame")


def _recording(skeleton: _Skeleton, frames: Sequence[Mapping[str, list[float]]]) -> Recording:
    order = _depth_first(skeleton)
    parents = [-1 if name == _ROOT else order.index(skeleton.parents[name]) for name in order]
    names, ends = list(order), set[int]()
    offsets = [np.zeros(3) if name == _ROOT else skeleton.bones[skeleton.parents[name]].offset_3 for name in order]
    for index, name in enumerate(order):
        if name not in skeleton.parents.values() and name != _ROOT:
            ends.add(len(names))
            names.append(f"{name}_end")
            parents.append(index)
            offsets.append(skeleton.bones[name].offset_3)
    offsets_J3 = np.array(offsets)
    rotations_FJ33 = np.tile(np.eye(3), (len(frames), len(names), 1, 1))
    offsets_FJ3 = np.repeat(offsets_J3[None], len(frames), axis=0)
    # A number too large to turn by becomes NaN, which is then a fault of that frame.
    with np.errstate(invalid="ignore", over="ignore"):
        for index, name in enumerate(order):
            bone = skeleton.bones[name]
            values_FC = np.array([frame.get(name, [0.0] * len(bone.order)) for frame in frames])
            turned = [(kind[1], column) for column, kind in enumerate(bone.order) if kind.startswith("r")]
            axes, columns = "".join(axis for axis, _ in turned), [column for _, column in turned]
            turn_F33 = _turns(axes, values_FC[:, columns], degrees=skeleton.degrees)
            # The root is turned by its numbers after its orientation at rest; bones about their own axes.
            rotations_FJ33[:, index] = (
                turn_F33 @ bone.axis_33 if name == _ROOT else bone.axis_33 @ turn_F33 @ bone.axis_33.T
            )
            for column, kind in enumerate(bone.order):
                if kind.startswith("t"):
                    offsets_FJ3[:, index, "xyz".index(kind[1])] += values_FC[:, column]
        positions_FJ3 = forward_kinematics(parents, offsets_FJ3, rotations_FJ33)
    return Recording(
        names=tuple(names),
        parents=tuple(parents),
        positions_FJ3=positions_FJ3,
        fps=None,
        offsets_J3=offsets_J3,
        rotations_FJ33=rotations_FJ33,
        ends=frozenset(ends),
    )


def _depth_first(skeleton: _Skeleton) -> list[str]:
    order, open_ = list[str](), [_ROOT]
    while open_:
        bone = open_.pop()
        order.append(bone)
        open_ += [child for child, parent in skeleton.parents.items() if parent == bone][::-1]
    return order


def _turns(axes: str, angles_3: FloatArray, *, degrees: bool) -> FloatArray:
    """The rotation [..., 3, 3] by angles [..., A] about fixed axes, the first one first."""
    turn_33: FloatArray = np.broadcast_to(np.eye(3), (*angles_3.shape[:-1], 3, 3))
    for column, axis in enumerate(axes):
        angle = angles_3[..., column]
        turn_33 = axis_rotation("xyz".index(axis), np.radians(angle) if degrees else angle) @ turn_33
    return turn_33
