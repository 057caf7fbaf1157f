"""Motion files of other programs: a file, or a folder with many, each a clip (`bvh`, `asf`, `joints`).

Captions lie beside them (`beside.py`): 01.bvh and 01.txt, or a captions.jsonl for all. Files are matched to the 22
joints, mended and brought to 20 frames a second (`rl_motion/motion/formats`); what was wrong with one and what was
guessed is in the report, and `report.html` has a picture of each. `joints` also reads a folder as
`rl_motion/data/folder.py` has it.

Splits are of whole trials, by their hashes alone, in that module's shares; a file is a trial of its own unless its
line names another. Features take the body's own heading (ADR 3).
Legend: F frames, J joints (22).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rl_motion.config import UserError
from rl_motion.data import folder as real
from rl_motion.data.datasets.beside import Beside, file_id
from rl_motion.data.datasets.clips import MOST_FRAMES, Caption, Clip, FileReport
from rl_motion.data.datasets.sources import Kind, Options, Source
from rl_motion.motion.features import FPS, joints_to_features
from rl_motion.motion.formats import pictures
from rl_motion.motion.formats.asf_amc import ASSUMED_FPS, read_amc
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.faults import mend
from rl_motion.motion.formats.joint_arrays import read_joint_array
from rl_motion.motion.formats.names import Convention, UnknownJointsError, names_template, read_names
from rl_motion.motion.formats.recording import Recording
from rl_motion.motion.formats.retarget import MOST_FPS, face_forward, to_20_fps, to_body
from rl_motion.motion.rotations import FloatArray
from rl_motion.types import Representation

PAGE = "report.html"
_LOOKED_AT = 20_000
"""Entries of a folder that recognising it may cost."""


@dataclass(frozen=True, slots=True)
class _Format:
    suffixes: tuple[str, ...]
    read: Callable[[Path], Recording]
    assumed_fps: float


_FORMATS: Mapping[str, _Format] = {
    "bvh": _Format((".bvh",), read_bvh, float(FPS)),
    "asf": _Format((".amc",), read_amc, ASSUMED_FPS),
    "joints": _Format((".npy", ".npz"), read_joint_array, float(FPS)),
}


def recognise(kind: str, path: Path) -> bool:
    """Whether there is a file of this kind, by its name."""
    suffixes = _FORMATS[kind].suffixes
    if path.is_file():
        return path.suffix.lower() in suffixes
    return any(file.suffix.lower() in suffixes for _, file in zip(range(_LOOKED_AT), _walk(path), strict=False))


def read(kind: str, path: Path, options: Options) -> Source:
    """Clips of such files, and what is wrong with them.

    Raises:
        UserError: there is no such file, the map of names cannot be read, or the rate is none.
    """
    if options.fps is not None and not 0 < options.fps <= MOST_FPS:
        raise UserError(f"got {options.fps} frames per second; want more than 0, at most {MOST_FPS:g}; mend --fps")
    names = read_names(options.names) if options.names is not None else None
    if kind == "joints" and (path / real.ARRAYS).is_file() and (path / real.LINES).is_file():
        return _read_folder(path, options)
    form = _FORMATS[kind]
    files = [path] if path.is_file() else [file for file in _walk(path) if file.suffix.lower() in form.suffixes]
    if not files:
        raise UserError(f"got {path} without any {' or '.join(form.suffixes)} file; want some; check the path")
    root = path.parent if path.is_file() else path
    told = Beside(root, files)
    work = _Files(root, form, names, options, told, [])
    split_of = split_trials(told.trial(file) for file in files)
    return Source(
        representation=Representation.HUMANML3D_263,
        fps=float(FPS),
        entries=_with_train(_file_entries(work, files, split_of)),
        total=len(files),
        pages=partial(_pages, path.name, work.pictures),
    )


KINDS: Mapping[str, Kind] = {
    kind: Kind(says, partial(recognise, kind), partial(read, kind))
    for kind, says in (
        ("bvh", "BVH files"),
        ("asf", "AMC files with their ASF skeletons"),
        ("joints", "arrays of joints, .npy or .npz, or a folder with joints.npz and clips.jsonl"),
    )
}


def split_trials(trials: Iterable[str]) -> dict[str, str]:
    """train, val or test for each trial, by the order of their hashes; train gets one first, then test, then val."""
    ordered = sorted(
        set(trials), key=lambda trial: hashlib.sha256(f"split\x1f{trial}".encode(errors="replace")).digest()
    )
    room = max(0, len(ordered) - 1)
    test = min(max(1, round(real.SHARES["test"] * len(ordered))), room)
    val = min(max(1, round(real.SHARES["val"] * len(ordered))), room - test)
    parts = ["test"] * test + ["val"] * val
    return dict(zip(ordered, parts + ["train"] * (len(ordered) - len(parts)), strict=True))


def _with_train(entries: Iterator[Clip | FileReport]) -> Iterator[Clip | FileReport]:
    """The same entries; where no clip of train could be used, the others are split anew, so that there is one."""
    held = list[Clip]()
    trained = False
    for entry in entries:
        if isinstance(entry, Clip) and not trained:
            trained = entry.split == "train"
            if not trained:
                held.append(entry)
                continue
            yield from held
            held = []
        yield entry
    split_of = split_trials(clip.trial for clip in held)
    yield from (replace(clip, split=split_of[clip.trial]) for clip in held)


@dataclass(frozen=True, slots=True)
class _Files:
    """What the reading of many files shares."""

    root: Path
    form: _Format
    names: Convention | None
    options: Options
    told: Beside
    pictures: list[pictures.Picture]


def _file_entries(work: _Files, files: list[Path], split_of: Mapping[str, str]) -> Iterator[Clip | FileReport]:
    yield from work.told.reports
    for file in files:
        name = file.relative_to(work.root).as_posix()
        try:
            done, clips, card = _made(work, file, split_of)
        except Exception as error:  # one file never loses the others, whatever it makes a reader do
            done, clips = _Done(wrong=(_plainly(error, file),), left_out=_reason(error)), []
            card = done.picture(name, ())
        yield FileReport(name, done.wrong, done.guessed, done.left_out)
        yield from clips
        work.pictures.append(card)


def _made(work: _Files, file: Path, split_of: Mapping[str, str]) -> tuple[_Done, list[Clip], pictures.Picture]:
    """What becomes of a file, its clips, and what the page shows of it."""
    done = _Done.of(work, file)
    captions, wrong = work.told.captions(file)
    done = replace(done, wrong=(*done.wrong, *wrong))
    trial = work.told.trial(file)
    clips = list[Clip]()
    if done.joints_FJ3 is not None and not done.left_out:
        clip = Clip(file_id(file, work.root), split_of[trial], trial, _NONE_FD, captions)
        clips, unmirrored = _clips(done.joints_FJ3, clip, work.told.mirrored(file, captions), work.options)
        done = replace(done, guessed=(*done.guessed, *unmirrored))
    return done, clips, done.picture(file.relative_to(work.root).as_posix(), captions)


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a file. joints_FJ3: also of one that is left out, if it got so far."""

    guessed: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    left_out: str = ""
    joints_FJ3: FloatArray | None = None
    names: str = ""

    @staticmethod
    def of(work: _Files, file: Path) -> _Done:
        """Read, match, mend and resample one file."""
        recording = work.form.read(file)
        fps = work.options.fps or work.form.assumed_fps
        try:
            mended = mend(to_body(recording, work.names, fps))
        except UnknownJointsError as error:
            return _Done((), (str(error),), "joint names that no map fits", names=names_template(recording))
        body, left_out = mended.body, mended.left_out
        done = _Done(body.guessed, body.wrong, left_out)
        if not np.isfinite(body.joints_FJ3).all() or not len(body.joints_FJ3):
            return done
        seconds = len(body.joints_FJ3) / body.fps
        if seconds * FPS > MOST_FRAMES:  # before it is made: a frame in ten seconds becomes two hundred
            wrong = (*done.wrong, f"{len(body.joints_FJ3)} frames, {seconds:.0f} s")
            return replace(done, wrong=wrong, left_out=left_out or f"more than {MOST_FRAMES} frames at {FPS} a second")
        try:
            joints_FJ3 = to_20_fps(body)
        except UserError as error:
            return replace(done, wrong=(*done.wrong, str(error)), left_out=left_out or "a bone of length zero")
        if len(joints_FJ3) < real.LEAST_FRAMES and not left_out:
            wrong = (*done.wrong, f"{len(body.joints_FJ3)} frames, {seconds:.2f} s")
            done = replace(done, wrong=wrong, left_out=f"fewer than {real.LEAST_FRAMES} frames at {FPS} a second")
        return replace(done, joints_FJ3=joints_FJ3)

    def picture(self, file: str, captions: tuple[Caption, ...]) -> pictures.Picture:
        """For the page."""
        svg = pictures.skeleton_svg(self.joints_FJ3) if self.joints_FJ3 is not None else ""
        texts = tuple(caption.text for caption in captions)
        return pictures.Picture(file, svg, self.wrong, self.guessed, self.left_out, texts, self.names)


_NONE_FD = np.zeros((0, 263), np.float32)


def _clips(
    joints_FJ3: FloatArray, clip: Clip, mirrored: tuple[Caption, ...], options: Options
) -> tuple[list[Clip], tuple[str, ...]]:
    """The clip with its features, and its mirror image if that is wanted; if it cannot be had, why."""
    clips = [replace(clip, features_FD=joints_to_features(joints_FJ3, own_heading=True))]
    if not options.mirrored:
        return clips, ()
    if clip.captions and not mirrored:
        return clips, ("not mirrored: nobody tells what the mirror image shows",)
    image_FD = joints_to_features(real.mirror(joints_FJ3.astype(np.float32)), own_heading=True)
    clips.append(replace(clip, id=f"{clip.id}.mirrored", features_FD=image_FD, captions=mirrored, mirrored=True))
    return clips, ()


def _read_folder(path: Path, options: Options) -> Source:
    """Clips of a folder as `rl_motion/data/folder.py` has it; what it says of itself is believed."""
    found = list(real.read_clips(path))
    split_of = split_trials(clip.trial for _, clip in found if isinstance(clip, real.Clip))
    cards = list[pictures.Picture]()

    def entries() -> Iterator[Clip | FileReport]:
        for name, read_clip in found:
            if isinstance(read_clip, str):
                yield FileReport(name, left_out=read_clip)
                cards.append(pictures.Picture(name, "", (), (), read_clip))
                continue
            captions, mirrored = (tuple(map(Caption, texts)) for texts in (read_clip.captions, read_clip.mirrored))
            clip = Clip(name, split_of[read_clip.trial], read_clip.trial, _NONE_FD, captions)
            clips, unmirrored = _clips(read_clip.joints_FJ3, clip, mirrored, options)
            if unmirrored:
                yield FileReport(name, guessed=unmirrored)
            yield from clips
            svg = pictures.skeleton_svg(face_forward(read_clip.joints_FJ3.astype(np.float64)))
            cards.append(pictures.Picture(name, svg, (), unmirrored, "", read_clip.captions))

    return Source(
        representation=Representation.HUMANML3D_263,
        fps=float(FPS),
        entries=_with_train(entries()),
        total=len(found),
        pages=partial(_pages, path.name, cards),
    )


def _pages(name: str, cards: list[pictures.Picture]) -> dict[str, bytes]:
    return {PAGE: pictures.page(f"Import of {name}", cards).encode(errors="replace")}


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return "a file that cannot be read"
    return f"a file that the reader fails at ({type(error).__name__})"


def _plainly(error: Exception, file: Path) -> str:
    """What is wrong, without the path: the report has it."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.replace(f"got {file}, ", "").replace(f"got {file} ", "got a file ").replace(str(file), file.name)


def _walk(path: Path) -> Iterator[Path]:
    """The files below a folder, sorted; links to folders and what is hidden are passed over."""
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))
