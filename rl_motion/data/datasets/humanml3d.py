"""HumanML3D and KIT-ML, exactly as their authors lay them out (EricGuo5513/HumanML3D and text-to-motion, both MIT).

    new_joint_vecs/000021.npy    features [F, 263] or [F, 251], not normalised; M000021 is the mirror image
    texts/000021.txt             a line a caption: caption#word/POS word/POS ...#start#end
    train.txt val.txt test.txt   an id a line; train_val.txt and all.txt are unions of these
    Mean.npy Std.npy             of the features

`new_joints` follows from the features and is not read. As the authors' loader (`Text2MotionDatasetV2`):

* motions of fewer than 40 frames (KIT-ML: 24), or of 200 and more, are left out, their segments with them;
* start and end of 0 (or nan): the caption is of the whole motion. Others make a clip of their own of these seconds,
  within the same limits, named by a letter and the id. Its letters are drawn at random, here they are A, B, ...: the
  same in every import. It counts 20 frames a second for KIT-ML, too; here it is KIT-ML's own 12.5.

It passes over whatever it cannot read without a word; here each such file has a line in the report.

Legend: F frames, D features of a frame.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.data.datasets.clips import SHAPES, Caption, Clip, FileReport, Statistics, caption_fault
from rl_motion.data.datasets.npy import read_floats, read_header, read_vector
from rl_motion.data.datasets.sources import BadFile, Options, Source
from rl_motion.data.datasets.statistics import statistics_fault
from rl_motion.tracking.files import read_whole
from rl_motion.types import Representation

MOTIONS, TEXTS = "new_joint_vecs", "texts"
SPLITS = ("test", "val", "train")
"""What is in two of them is of the one that is held out: it comes first."""
LIMITS = {Representation.HUMANML3D_263: (40, 199), Representation.KIT_251: (24, 199)}
"""Fewest and most frames of a clip."""
_OF_WIDTH = {SHAPES[representation].features_D: representation for representation in LIMITS}
_LOOKED_AT = 64
"""Motions by whose width the data set is told from the other."""
_MOST_BYTES = 1 << 24
"""Of a text file."""
_MIRRORED = re.compile(r"M(\d+)")
_SHOWN = 5


def recognise(path: Path) -> bool:
    """Whether this looks like such a folder, whole or not."""
    return (path / MOTIONS).is_dir() or ((path / TEXTS).is_dir() and (path / "new_joints").is_dir())


def read(path: Path, options: Options) -> Source:
    """Clips of such a folder, and what is wrong with its files.

    Raises:
        UserError: a folder or train.txt is missing, no motion can be read, or motions are of neither width.
    """
    del options
    for name in (MOTIONS, TEXTS):
        if not (path / name).is_dir():
            packed = (path / f"{name}.zip").is_file()
            raise UserError(
                f"got {path} without the folder {name}; want {MOTIONS}, {TEXTS} and train.txt, as HumanML3D and KIT-ML "
                f"have them; {f'unpack {name}.zip' if packed else 'check the path, or make it as their authors say'}"
            )
    ids = _read_ids(path)
    representation = _representation(path, ids)
    statistics, told = _statistics(path, SHAPES[representation].features_D)
    folder = _Folder(path, representation, SHAPES[representation].fps)
    return Source(
        representation=representation,
        fps=folder.fps,
        entries=_entries(folder, ids, told),
        total=len(ids.split_of),
        statistics=statistics,
    )


@dataclass(frozen=True, slots=True)
class _Ids:
    """split_of: by id, in the order of the files, training first. reports: of these files."""

    split_of: Mapping[str, str]
    reports: tuple[FileReport, ...]


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    representation: Representation
    fps: float


def trial_of(name: str) -> str:
    """The recording that an id is of: mirror images share it."""
    mirrored = _MIRRORED.fullmatch(name)
    return mirrored[1] if mirrored else name


def _read_ids(path: Path) -> _Ids:
    listed: dict[str, list[str]] = {}
    reports: list[FileReport] = []
    for split in SPLITS:
        file = f"{split}.txt"
        try:
            listed[split], bad = _ids_in(path / file)
            reports += bad
        except BadFile as bad_file:
            if split == "train":
                raise UserError(
                    f"got {path / file}, {bad_file}; want the ids of the training split, one a line; copy the files "
                    "of splits that the data's authors publish"
                ) from None
            reports.append(FileReport(file, (bad_file.detail,), (f"nothing is in the split {split}",)))
    split_of: dict[str, str] = {}
    held: dict[str, str] = {}
    for split, names in listed.items():
        for name in names:
            first = held.setdefault(trial_of(name), split)
            if first == split:
                split_of[name] = split
            else:
                reports.append(FileReport(f"{split}.txt", (f"{name} is of {first}, too",), left_out="in two splits"))
    reports += _left_over(path, {name for names in listed.values() for name in names})
    ordered = {name: split for want in reversed(SPLITS) for name, split in split_of.items() if split == want}
    return _Ids(ordered, tuple(reports))


def _ids_in(path: Path) -> tuple[list[str], list[FileReport]]:
    """The ids of a file, each once, and its bad lines."""
    names: dict[str, None] = {}
    reports = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        name = line.strip()
        if not name:
            continue
        if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
            reports.append(FileReport(path.name, (f"line {number}: {name[:80]!r}",), left_out="an id that is no name"))
        elif name in names:
            reports.append(FileReport(path.name, (f"line {number}: {name} comes twice",)))
        else:
            names[name] = None
    return list(names), reports


def _left_over(path: Path, named: Set[str]) -> Iterator[FileReport]:
    """Motions that no split names: how many, and some of them."""
    over = sorted({file.stem for file in (path / MOTIONS).glob("*.npy")} - named)
    if over:
        shown = ", ".join(over[:_SHOWN])
        yield FileReport(MOTIONS, (f"{len(over)} motions that no split names, such as {shown}",))


def _representation(path: Path, ids: _Ids) -> Representation:
    """By the width that most of the first motions have that can be read."""
    widths: Counter[int] = Counter()
    shape: tuple[int, ...] | None = None
    for name in ids.split_of:
        try:
            shape = read_header(path / MOTIONS / f"{name}.npy").shape
        except BadFile:
            continue
        widths[shape[1] if len(shape) == 2 else -1] += 1
        if widths.total() >= _LOOKED_AT:
            break
    if shape is None:
        raise UserError(
            f"got {path}, of whose {len(ids.split_of)} ids no motion can be read; want {MOTIONS}/ID.npy for the ids of "
            "train.txt, val.txt and test.txt; check that both belong together"
        )
    width = widths.most_common(1)[0][0]
    if width not in _OF_WIDTH:
        want = " or ".join(f"[frames, {known}]" for known in _OF_WIDTH)
        raise UserError(
            f"got motions in {path / MOTIONS} such as {list(shape)}; want {want}; make the features as their "
            "authors do, or import joints"
        )
    return _OF_WIDTH[width]


def _statistics(path: Path, features_D: int) -> tuple[Statistics | None, list[FileReport]]:
    """Mean.npy and Std.npy; None where they are not there or no use, and then why."""
    own = "mean and deviation are computed over the training split"
    if not (path / "Mean.npy").exists() and not (path / "Std.npy").exists():
        return None, [FileReport("Mean.npy", guessed=(f"Mean.npy and Std.npy are not there: {own}",))]
    arrays = []
    for name in ("Mean.npy", "Std.npy"):
        try:
            arrays.append(read_vector(path / name, features_D))
        except BadFile as bad:
            return None, [FileReport(name, (str(bad),), (own,))]
    statistics = Statistics(*arrays)
    if fault := statistics_fault(statistics, features_D):
        return None, [FileReport("Std.npy", (fault,), (own,))]
    return statistics, []


def _entries(folder: _Folder, ids: _Ids, told: Sequence[FileReport]) -> Iterator[Clip | FileReport]:
    yield from ids.reports
    yield from told
    for name, split in ids.split_of.items():
        motion, text = f"{MOTIONS}/{name}.npy", f"{TEXTS}/{name}.txt"
        features_D = SHAPES[folder.representation].features_D
        try:
            features_FD = read_floats(folder.path / motion, (features_D,))
        except BadFile as bad:
            yield bad.report(motion)
            continue
        if fault := _length_fault(folder, len(features_FD)):
            yield FileReport(motion, (f"{len(features_FD)} frames",), left_out=fault)
            continue
        captions, reports = _captions(folder.path / text, text)
        yield from reports
        if captions:
            clip = Clip(name, split, trial_of(name), features_FD, (), mirrored=bool(_MIRRORED.fullmatch(name)))
            yield from _clips(folder, clip, captions, text)


def _length_fault(folder: _Folder, frames: int) -> str:
    least, most = LIMITS[folder.representation]
    return f"fewer than {least} frames" if frames < least else f"more than {most} frames" if frames > most else ""


def _captions(path: Path, file: str) -> tuple[list[Caption], list[FileReport]]:
    """Of a text file those that can be used, and what is wrong with the others; one report at least if none can be."""
    captions: list[Caption] = []
    reports = []
    try:
        content = _text(path)
    except BadFile as bad:
        return [], [replace(bad.report(file), left_out="no text")]
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            caption, note = _caption(line)
        except BadFile as bad:
            reports.append(FileReport(file, (f"line {number}: {bad.detail}",), left_out=bad.reason))
            continue
        captions.append(caption)
        if note:
            reports.append(FileReport(file, (f"line {number}: {note}",)))
    if not captions:
        reports.append(FileReport(file, left_out="no caption that can be used"))
    return captions, reports


def _caption(line: str) -> tuple[Caption, str]:
    """A caption of a line, and what is wrong with it; raises BadFile where it cannot be used."""
    fields = line.split("#")
    if len(fields) != 4:
        raise BadFile("a line that is not caption#tokens#start#end", f"{len(fields)} parts: {line.strip()[:80]!r}")
    try:
        start_s, end_s = (0.0 if math.isnan(seconds := float(told)) else seconds for told in fields[2:])
    except ValueError:
        raise BadFile("times that are no numbers", f"{'#'.join(fields[2:])[:80]!r}") from None
    if not 0 <= start_s <= end_s < math.inf:
        raise BadFile("times that are not in order", f"{start_s:g} to {end_s:g}")
    caption = Caption(" ".join(fields[0].split()), tuple(fields[1].split()), start_s, end_s)
    if not caption_fault(caption):
        return caption, ""
    bare = replace(caption, tokens=())
    if fault := caption_fault(bare):
        raise BadFile(fault, f"{caption.text[:80]!r}")
    return bare, f"{caption_fault(caption)} are left out: {fields[1][:80]!r}"


def _clips(folder: _Folder, whole: Clip, captions: Sequence[Caption], file: str) -> Iterator[Clip | FileReport]:
    """The whole motion with the captions of it, and a clip for each caption of a part."""
    of_whole = tuple(caption for caption in captions if caption.start_s == caption.end_s == 0)
    if of_whole:
        yield replace(whole, captions=of_whole)
    letters = _letters()
    for caption in captions:
        if caption in of_whole:
            continue
        part_FD = _part(whole.features_FD, caption, folder.fps)
        seconds = f"{caption.start_s:g} to {caption.end_s:g} s of {len(whole.features_FD) / folder.fps:g} s"
        if fault := _length_fault(folder, len(part_FD)):
            yield FileReport(file, (seconds,), left_out=f"a part of {fault}")
            continue
        if caption.end_s > len(whole.features_FD) / folder.fps + 1:
            yield FileReport(file, (f"{seconds}: it ends with the motion",))
        yield replace(whole, id=f"{next(letters)}_{whole.id}", features_FD=part_FD, captions=(caption,))


def _part(features_FD: NDArray[np.float32], caption: Caption, fps: float) -> NDArray[np.float32]:
    """`motion[int(start * fps):int(end * fps)]`, as the authors' loader cuts."""
    last = int(min(caption.end_s * fps, len(features_FD)))
    return features_FD[int(min(caption.start_s * fps, last)) : last]


def _letters() -> Iterator[str]:
    """A, B, ... Z, AA, AB, ..."""
    size = 1
    while True:
        yield from map("".join, product(ascii_uppercase, repeat=size))
        size += 1


def _text(path: Path) -> str:
    """A text file; bytes that are not UTF-8 become surrogates, which are refused in their own line alone."""
    try:
        return read_whole(path, _MOST_BYTES).decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise BadFile("a file that cannot be read", error.strerror or str(error)) from None
