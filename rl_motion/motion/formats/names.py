"""Which joint of a file is which of the 22: built-in conventions, and maps of one's own (YAML or JSON).

A convention names, for each joint of `skeleton.JOINT_NAMES`, what files may call it. Case, separators and a prefix that
all joints share (`mixamorig:`) do not matter. spine1 to spine3 are mostly not named: whatever joints lie on the way
from the pelvis to the neck are the trunk (`retarget.py`). Where a hand, foot or head is missing, the end of its bone
(`End Site`) takes its place.

A map of one's own is a YAML or JSON file, a line per joint; some of the 22 may be absent (`NEEDED` may not):

    pelvis: Hips
    left_hip: [LeftUpLeg, LeftThigh]     # several: the first that a file has
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rl_motion.config import UserError
from rl_motion.motion.formats.recording import Recording, shown
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS
from rl_motion.tracking.files import read_whole

NEEDED: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
"""Without these no body can be made; and neck or head."""
_MOST_BYTES = 1024 * 1024
_LISTED = 60
"""Joints of an unknown skeleton that an error lists."""

_SIDED = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")


class UnknownJointsError(UserError):
    """A skeleton whose joints no map names."""


@dataclass(frozen=True, slots=True)
class Convention:
    """names: of each joint, what it may be called. marks: names without which a skeleton is another's."""

    says: str
    names: Mapping[str, tuple[str, ...]]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """says: the convention. joints: index in the file of each of the 22 that was found. notes: a sentence each."""

    says: str
    joints: Mapping[str, int]
    notes: tuple[str, ...]


def _convention(  # noqa: PLR0913 - one argument per part of a body
    says: str, left: str, right: str, limbs: str, *, pelvis: str, neck: str, head: str, marks: str = "", **more: str
) -> Convention:
    """A convention, from patterns such as `Left{}` and the names of hip, knee and so on; `/` parts alternatives."""
    names = {"pelvis": pelvis, "neck": neck, "head": head, **more}
    for side, pattern in (("left", left), ("right", right)):
        for joint, parts in zip(_SIDED, limbs.split(), strict=True):
            names[f"{side}_{joint}"] = "/".join(pattern.format(part) for part in parts.split("/"))
    return Convention(says, {joint: tuple(text.split("/")) for joint, text in names.items()}, tuple(marks.split()))


_BONES = "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand"
CONVENTIONS: tuple[Convention, ...] = (
    # cgspeed's BVH has Neck and LeftShoulder where Spine1 is. In both of CMU's skeletons the upper neck begins where
    # the 22 have the neck, as far above the shoulders.
    _convention("CMU, cgspeed", "Left{}", "Right{}", _BONES, pelvis="Hips", neck="Neck1", head="Head",
                marks="LowerBack LHipJoint"),
    _convention("Mixamo", "Left{}", "Right{}", _BONES, pelvis="Hips", neck="Neck", head="Head"),
    _convention("LAFAN1", "Left{}", "Right{}", "UpLeg Leg Foot Toe Shoulder Arm ForeArm Hand",
                pelvis="Hips", neck="Neck", head="Head"),
    _convention("Bandai-Namco", "{}_L", "{}_R", "UpperLeg LowerLeg Foot Toes Shoulder UpperArm LowerArm Hand",
                pelvis="Hips", neck="Neck", head="Head"),
    _convention("Daz", "l{}", "r{}", "Thigh/ThighBend Shin Foot Toe Collar Shldr/ShldrBend ForeArm/ForearmBend Hand",
                pelvis="hip", neck="neck/neckLower", head="head"),
    _convention("Xsens", "Left{}", "Right{}", "Hip Knee Ankle Toe Collar Shoulder Elbow Wrist",
                pelvis="Hips", neck="Neck", head="Head"),
    _convention("Xsens MVN", "Left{}", "Right{}", "UpperLeg LowerLeg Foot Toe Shoulder UpperArm ForeArm Hand",
                pelvis="Pelvis/Hips", neck="Neck", head="Head"),
    _convention("Rokoko", "Left{}", "Right{}", "Thigh Shin Foot Toe Shoulder Arm ForeArm Hand",
                pelvis="Hips", neck="Neck", head="Head"),
    _convention("SMPL", "left_{0}/L_{0}", "right_{0}/R_{0}", "hip knee ankle foot collar shoulder elbow wrist",
                pelvis="pelvis", neck="neck", head="head", spine1="spine1", spine2="spine2", spine3="spine3"),
    _convention("CMU, ASF", "l{}", "r{}", "femur tibia foot toes clavicle humerus radius wrist",
                pelvis="root", neck="upperneck", head="head", marks="lowerback lhipjoint"),
)  # fmt: skip


def read_names(path: str | Path) -> Convention:
    """Read a map of one's own.

    Raises:
        UserError: it cannot be read, or names joints that are none of the 22, or no joint.
    """
    path = Path(path)
    try:
        text = read_whole(path, _MOST_BYTES).decode("utf-8-sig")
        given = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(
            f"got {path}, which cannot be read ({error.strerror}); want a YAML or JSON file; check the path"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"got {path}, which is no YAML or JSON ({said}); want lines such as 'pelvis: Hips'; mend it"
        ) from None
    if not isinstance(given, dict) or not given:
        raise UserError(f"got {path} with {type(given).__name__}; want lines such as 'pelvis: Hips'; write it")
    names = {}
    for joint, called in given.items():
        if joint not in JOINT_NAMES:
            near = difflib.get_close_matches(str(joint)[:200], JOINT_NAMES, n=1)
            todo = f"did you mean {near[0]}?" if near else "leave it out"
            raise UserError(f"got {path} with the joint {shown(joint)}; want some of {', '.join(JOINT_NAMES)}; {todo}")
        listed = called if isinstance(called, list) else [called]
        if not listed or not all(isinstance(name, str) and name for name in listed):
            raise UserError(
                f"got {path} with {joint}: {type(called).__name__}; want a joint's name, or a list of names; write text"
            )
        names[str(joint)] = tuple(listed)
    return Convention(path.name, names)


def match_names(recording: Recording, own: Convention | None = None) -> Match:
    """Find the 22 joints by name: by the map of one's own, where that fits, else by the built-in conventions.

    Raises:
        UnknownJointsError: none fits; the message lists the file's joints and the nearest guess.
    """
    spelt = _spellings(recording)
    for convention in (own,) if own else ():
        found = _found(recording, convention, spelt)
        if not _missing(found.joints):
            return found
    tried = [_found(recording, convention, spelt) for convention in CONVENTIONS if _marked(convention, spelt)]
    whole = [found for found in tried if not _missing(found.joints)]
    if whole:
        best = max(whole, key=lambda found: len(found.joints) - len(found.notes))
        if own:
            note = f"{own.says} does not fit this skeleton; {best.says} does"
            return Match(best.says, best.joints, (*best.notes, note))
        return best
    raise _unknown(recording, tried, own)


def names_template(recording: Recording) -> str:
    """A map to complete, for a skeleton that nothing fits: what was found by the nearest guesses, the rest open."""
    spelt = _spellings(recording)
    tried = [_found(recording, convention, spelt) for convention in CONVENTIONS]
    best = max(tried, key=lambda found: len(found.joints))
    taken = {recording.names[index] for index in best.joints.values()}
    lines = []
    for joint in JOINT_NAMES:
        if joint in best.joints:
            lines.append(f"{joint}: {json.dumps(recording.names[best.joints[joint]], ensure_ascii=False)}")
        elif joint in NEEDED:
            guess = _guess(joint, [name for name in recording.names if name not in taken])
            lines.append(f"{joint}: {json.dumps(guess, ensure_ascii=False)}  # a guess" if guess else f"# {joint}: ?")
    return "\n".join(lines) + "\n"


def _found(recording: Recording, convention: Convention, spelt: Mapping[str, int]) -> Match:
    joints = dict[str, int]()
    exact = {name: index for index, name in enumerate(recording.names)}
    for joint, called in convention.names.items():
        index = next((exact[name] for name in called if name in exact), None)
        if index is None:
            index = next((spelt[_plain(name)] for name in called if _plain(name) in spelt), None)
        if index is not None and index not in joints.values():
            joints[joint] = index
    notes = []
    for joint in ("head", "left_foot", "right_foot", "left_wrist", "right_wrist"):
        parent = JOINT_NAMES[PARENTS[JOINT_NAMES.index(joint)]]
        if joint not in joints and parent in joints and (end := _end_of(recording, joints[parent])) is not None:
            joints[joint] = end
            notes.append(f"{joint} is the end of {shown(recording.names[joints[parent]])}")
    return Match(convention.says, joints, tuple(notes))


def _end_of(recording: Recording, joint: int) -> int | None:
    return next((end for end in sorted(recording.ends) if recording.parents[end] == joint), None)


def _missing(joints: Mapping[str, int]) -> list[str]:
    missing = [joint for joint in NEEDED if joint not in joints]
    return missing if "neck" in joints or "head" in joints else [*missing, "neck or head"]


def _marked(convention: Convention, spelt: Mapping[str, int]) -> bool:
    return all(_plain(mark) in spelt for mark in convention.marks)


def _spellings(recording: Recording) -> dict[str, int]:
    """Index of each joint by its name without case, separators, namespace and the prefix that all share."""
    plain = [_plain(name.rpartition(":")[2]) for name in recording.names]
    own = [name for index, name in enumerate(plain) if index not in recording.ends]
    spelt = dict[str, int]()
    for cut in (0, _shared_prefix(own)):
        for index, name in enumerate(plain):
            if index not in recording.ends and name[cut:]:
                spelt.setdefault(name[cut:], index)
    for index in recording.ends:
        spelt.setdefault(plain[index], index)
    return spelt


def _shared_prefix(names: Sequence[str]) -> int:
    """How many letters all of three names or more begin with."""
    if len(names) < 3:
        return 0
    first, last = min(names), max(names)
    return next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _guess(joint: str, names: Sequence[str]) -> str | None:
    """The file's name that looks most like any that the conventions have for a joint."""
    called = [_plain(name) for convention in CONVENTIONS for name in convention.names.get(joint, ())]
    plain = {_plain(name): name for name in names}
    scores = Counter[str]()
    for name in called:
        for near in difflib.get_close_matches(name, plain, n=1, cutoff=0.6):
            scores[near] = max(scores[near], round(1000 * difflib.SequenceMatcher(None, name, near).ratio()))
    return plain[max(scores, key=lambda near: scores[near])] if scores else None


def _unknown(recording: Recording, tried: Sequence[Match], own: Convention | None) -> UnknownJointsError:
    names = [name for index, name in enumerate(recording.names) if index not in recording.ends]
    listed = ", ".join(map(shown, names[:_LISTED])) + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")
    best = max(tried, key=lambda found: len(found.joints))
    lacks = []
    for joint in _missing(best.joints)[:4]:
        guess = _guess(joint, names)
        lacks.append(f"{joint} (perhaps {shown(guess)})" if guess else joint)
    fits = f"neither {own.says} nor a built-in map fits" if own else "no built-in map fits"
    return UnknownJointsError(
        f"got joints that {fits}: {listed}; nearest is {best.says}, which lacks {', '.join(lacks)}; want the 22 joints "
        "named; write a map and give it with --names"
    )
