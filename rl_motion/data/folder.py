"""A folder of real motion with captions: what is read, what is left out and why, and what nothing may train on.

FOLDER/joints.npz    joints [N, 22, 3] in metres, Y up; clip i is joints[offsets[i]:offsets[i + 1]] and names[i]; fps 20
FOLDER/clips.jsonl   a line per clip, in the same order: name, trial, captions; flags, cmu_desc, captions_mirrored where
                     there are any

A trial is one recording, of which there may be several clips. Splits are made of whole trials, so that no window of
what is held out overlaps training, and named as those of the embedded world: `source|target`/`train|val|test`, where
the target is some categories of action. Which trial goes where depends on hashes alone.
Legend: N clips or windows, F frames, J joints (22), D features (263).
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.motion.features import FEATURES_D, FPS, JOINTS_J, joints_to_features
from rl_motion.motion.skeleton import JOINT_NAMES
from rl_motion.prompts.pool import make_prompt
from rl_motion.types import Prompt

ARRAYS, LINES = "joints.npz", "clips.jsonl"
LEAST_FRAMES = 20
"""Of a clip, one second: less shows no action."""
FLAGS = ("spike", "tpose", "static", "feet")
"""Clips with a flag that begins so are left out; other flags say how a clip was cut."""
CATEGORIES: tuple[tuple[str, str], ...] = (
    ("animal", r"human subject|\b(bear|chicken|dinosaur|elephant|snake|whale|(prairie )?dog)\b"),
    ("dance", r"danc|ballet|cartwheel|acrobat|balance on one leg"),
    ("exercise", r"jumping jack|side twist|range of motion|stretch"),
    ("climb", r"climb|ladder|stairs"),
    ("sit", r"\bsit"),
    ("clean", r"\b(wash|mop|wip)"),
    ("gesture", r"signal|traffic|\bwav|drink|laugh|teapot|vacation|motorcycle"),
    ("fight", r"\bbox|punch|sword|karate|martial|front kick|empi|oiduki|mawashigeri|yokogeri"),
    ("ball", r"basketball|soccer|dribbl"),
    ("jump", r"\b(jump|hop|leap)"),
    ("run", r"\b(run|jog|sprint)"),
    ("walk", r"walk|strid|step"),
)  # fmt: skip
"""Categories of actions and what names them: the first that is found counts, so 'jumping jacks' are no jump."""
OTHER = "other"
SHARES = {"test": 1 / 3, "val": 0.1}
"""Of the trials of a category; the rest trains."""
SIDED = re.compile(r"\b(left|right|(counter|anti)?-?clockwise)", re.IGNORECASE)
"""What says something else of the mirror image."""
_LEFT = [index for index, name in enumerate(JOINT_NAMES) if name.startswith("left_")]
_RIGHT = [index for index, name in enumerate(JOINT_NAMES) if name.startswith("right_")]


@dataclass(frozen=True, slots=True)
class Clip:
    """joints_FJ3: in metres, as recorded. captions: at least one. mirrored: what they say of the mirrored motion; none
    where nobody told. label: of the trial, in the data base's own words."""

    name: str
    trial: str
    label: str
    captions: tuple[str, ...]
    mirrored: tuple[str, ...]
    joints_FJ3: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MotionFolder:
    """clips: those that can be used. left_out: how many are not, by reason. sha256: of both files."""

    clips: tuple[Clip, ...]
    left_out: Mapping[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class Windows:
    """Cuts of clips: features_NFD (zero beyond length), length_N; clip_N counts the clips that they were cut from, and
    captions has those of each window, at least one."""

    features_NFD: NDArray[np.float32]
    length_N: NDArray[np.int64]
    clip_N: NDArray[np.int64]
    captions: tuple[tuple[str, ...], ...]


def read_folder(folder: str | Path) -> MotionFolder:
    """Read and check both files.

    Raises:
        UserError: one is missing or broken, they do not belong together, or no clip can be used.
    """
    arrays_path, lines_path = Path(folder) / ARRAYS, Path(folder) / LINES
    found = [clip for _, clip in read_clips(folder)]
    clips = tuple(clip for clip in found if isinstance(clip, Clip))
    left_out = Counter(clip for clip in found if isinstance(clip, str))
    if not clips:
        raise UserError(f"got {folder}, of whose clips none can be used ({dict(left_out)}); want some; mend them")
    digest = hashlib.sha256(arrays_path.read_bytes() + lines_path.read_bytes()).hexdigest()
    return MotionFolder(clips, dict(sorted(left_out.items())), digest)


def read_clips(folder: str | Path) -> Iterator[tuple[str, Clip | str]]:
    """Every clip with its name, in the order of the files; of one that cannot be used, why.

    Raises:
        UserError: a file is missing or broken, or they do not belong together.
    """
    arrays_path, lines_path = Path(folder) / ARRAYS, Path(folder) / LINES
    joints, offsets, names = _arrays(arrays_path)
    rows = list(_lines(lines_path))
    if [row["name"] for row in rows] != names:
        raise UserError(
            f"got {lines_path} with {len(rows)} clips and {arrays_path} with {len(names)}, or in another order; want "
            "line i to be names[i]; write both together"
        )
    for row, first, last in zip(rows, offsets[:-1], offsets[1:], strict=True):
        yield row["name"], _clip(row, joints[first:last])


def category(texts: Sequence[str]) -> str:
    """The category of action that most of these texts name, `OTHER` where none does."""
    named = Counter(name for text in texts for name in _names(text))
    return max(named, key=lambda name: named[name]) if named else OTHER


def categories(clips: Sequence[Clip]) -> dict[str, str]:
    """The category of every trial: by its label where that names one, by the captions of its clips where not."""
    out = {}
    for trial in dict.fromkeys(clip.trial for clip in clips):
        own = [clip for clip in clips if clip.trial == trial]
        by_label = category([clip.label for clip in own])
        out[trial] = by_label if by_label != OTHER else category([text for clip in own for text in clip.captions])
    return out


def split_clips(clips: Sequence[Clip], target: Collection[str]) -> dict[str, tuple[Clip, ...]]:
    """The clips of every split, whole trials each; within a category the trials' hashes say which go where.

    Args:
        clips: all of a folder.
        target: the categories whose motion the base does not see.

    Raises:
        UserError: a category that the folder does not have, or a split without clips.
    """
    of_trial = categories(clips)
    if not target or not set(target) < set(of_trial.values()):
        raise UserError(
            f"got the target {sorted(target)}; want some, not all, of {sorted(set(of_trial.values()))}, the categories "
            "of this data; choose among these"
        )
    part: dict[str, str] = {}
    for name in sorted(set(of_trial.values())):
        trials = sorted((t for t in of_trial if of_trial[t] == name), key=lambda t: _digest("split", t))
        held_out = {kind: round(share * len(trials)) for kind, share in SHARES.items()}
        kinds = [kind for kind, number in held_out.items() for _ in range(number)]
        domain = "target" if name in target else "source"
        for trial, kind in zip(trials, [*kinds, *["train"] * (len(trials) - len(kinds))], strict=True):
            part[trial] = f"{domain}/{kind}"
    wanted = [f"{domain}/{kind}" for domain in ("source", "target") for kind in ("train", "val", "test")]
    out = {split: tuple(clip for clip in clips if part[clip.trial] == split) for split in wanted}
    for split, found in out.items():
        if not found:
            raise UserError(
                f"got no clip for {split}: its categories have too few trials; want six trials or so in each domain; "
                "choose other targets, or bring more data"
            )
    return out


def wording(text: str) -> str:
    """What two captions that differ in case, spaces and punctuation alone have in common."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def split_prompts(splits: Mapping[str, Sequence[Clip]], split: str, frames: int) -> list[Prompt]:
    """The captions of a split as prompts, of the length that a window of their clip has; `group` is the category.

    Of a held-out split those alone that are worded as no caption of either train split: nothing that is examined was
    read by what is trained. People say 'a person walks forward' of many recordings.

    Args:
        splits: as `split_clips` makes them.
        split: one of them.
        frames: the longest window.
    """
    training = {
        wording(text)
        for name, clips in splits.items()
        if name.endswith("/train")
        for clip in clips
        for text in (*clip.captions, *clip.mirrored)
    }
    held_out = not split.endswith("/train")
    of_trial = categories([clip for clips in splits.values() for clip in clips])
    found: dict[str, Prompt] = {}
    for clip in splits[split]:
        for text in clip.captions:
            if held_out and wording(text) in training:
                continue
            made = make_prompt(text, min(len(clip.joints_FJ3) - 1, frames))
            found.setdefault(made.id, Prompt(made.id, made.text, made.length, of_trial[clip.trial]))
    return list(found.values())


def cut_windows(clips: Sequence[Clip], frames: int, step: int, *, mirrored: bool = False) -> Windows:
    """Features of clips, in windows of `frames` feature frames at most that begin at most `step` apart.

    Floor and proportions are those of the whole clip: the floor is its lowest point, the heading the body's own
    (`joints_to_features`), so that a window is a cut of the clip's features.

    Args:
        clips: to cut; a shorter one is one window.
        frames: the longest window.
        step: below `frames`, windows overlap.
        mirrored: also the mirror image of every clip of which is told what it shows.
    """
    features, lengths, owners, captions = [], [], [], []
    for number, clip in enumerate(clips):
        images = [(clip.joints_FJ3, clip.captions)]
        if mirrored and clip.mirrored:
            images.append((mirror(clip.joints_FJ3), clip.mirrored))
        for joints_FJ3, texts in images:
            whole_FD = joints_to_features(joints_FJ3, own_heading=True)
            for start in _starts(len(whole_FD), frames, step):
                cut_FD = whole_FD[start : start + frames]
                features.append(np.pad(cut_FD, ((0, frames - len(cut_FD)), (0, 0))))
                lengths.append(len(cut_FD))
                owners.append(number)
                captions.append(texts)
    stacked = np.stack(features) if features else np.zeros((0, frames, FEATURES_D), np.float32)
    return Windows(stacked, np.array(lengths, np.int64), np.array(owners, np.int64), tuple(captions))


def mirror(joints_FJ3: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mirror image: left and right change places."""
    order = np.arange(JOINTS_J)
    order[_LEFT], order[_RIGHT] = _RIGHT, _LEFT
    return joints_FJ3[:, order] * np.array([-1.0, 1.0, 1.0], np.float32)


def _starts(rows: int, frames: int, step: int) -> list[int]:
    room = rows - frames
    if room <= 0:
        return [0]
    return [round(start) for start in np.linspace(0, room, 1 + -(-room // step))]


def _names(text: str) -> Iterator[str]:
    yield from [name for name, pattern in CATEGORIES if re.search(pattern, text, re.IGNORECASE)][:1]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _arrays(path: Path) -> tuple[NDArray[np.float32], list[int], list[str]]:
    """joints, offsets and names, which fit one another."""
    try:
        with np.load(path, allow_pickle=False) as file:
            joints, offsets, names = file["joints"], file["offsets"], file["names"]
            fps = float(file["fps"]) if "fps" in file else float(FPS)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"got {path}, which cannot be read ({' '.join(str(error).split())[:200]}); want an npz file with joints, "
            "offsets and names, without pickles; write it with np.savez"
        ) from None
    shaped = joints.ndim == 3 and joints.shape[1:] == (JOINTS_J, 3) and joints.dtype.kind == "f"
    listed = offsets.ndim == names.ndim == 1 and offsets.dtype.kind in "iu" and names.dtype.kind == "U"
    if not shaped or not listed or len(offsets) != len(names) + 1:
        raise UserError(
            f"got {path} with joints {joints.dtype} {joints.shape}, offsets {offsets.dtype} {offsets.shape} and names "
            f"{names.dtype} {names.shape}; want floats [N, {JOINTS_J}, 3], N + 1 whole numbers and N texts; convert it"
        )
    bounds = [int(offset) for offset in offsets]
    if bounds[0] != 0 or bounds[-1] != len(joints) or bounds != sorted(bounds):
        raise UserError(
            f"got {path} with offsets from {bounds[0]} to {bounds[-1]} for {len(joints)} frames; want them to rise "
            "from 0 to the number of frames; write the file again"
        )
    if fps != FPS:
        raise UserError(f"got {path} at {fps:g} frames per second; want {FPS}; resample it")
    return joints.astype(np.float32), bounds, [str(name) for name in names]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"got {path}, which cannot be read ({error}); want a JSON object a line; write it") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not _well_formed(row):
            raise UserError(
                f"{path}, line {number}: got {line[:80]!r}; want an object with the texts name and trial, the lists of "
                "texts captions and, if any, captions_mirrored and flags, and the text cmu_desc, if any; mend it"
            )
        yield row


def _well_formed(row: Mapping[str, Any]) -> bool:
    texts = (row.get("name"), row.get("trial"), row.get("cmu_desc", ""))
    lists = (row.get("captions"), row.get("captions_mirrored", []), row.get("flags", []))
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(many, list) and all(isinstance(one, str) for one in many) for many in lists
    )


def _clip(row: Mapping[str, Any], joints_FJ3: NDArray[np.float32]) -> Clip | str:
    """The clip, or why it is left out."""
    flags = [flag for flag in row.get("flags", []) if flag.startswith(FLAGS)]
    captions = _usable(row["captions"])
    if flags:
        return f"flag {flags[0]}"
    if len(joints_FJ3) < LEAST_FRAMES:
        return f"fewer than {LEAST_FRAMES} frames"
    if not captions:
        return "no caption"
    if not np.isfinite(joints_FJ3).all():
        return "not finite"
    try:
        joints_to_features(joints_FJ3[:2])
    except ValueError:
        return "a bone of length zero"
    mirrored = _usable(row.get("captions_mirrored", []))
    if not mirrored and not any(SIDED.search(text) for text in captions):
        mirrored = captions
    return Clip(row["name"], row["trial"], row.get("cmu_desc", ""), captions, mirrored, joints_FJ3)


def _usable(texts: Sequence[str]) -> tuple[str, ...]:
    """Those that can be prompts, spaces collapsed, each once."""
    kept = []
    for text in texts:
        try:
            kept.append(make_prompt(text, 1).text)
        except UserError:
            continue
    return tuple(dict.fromkeys(kept))
