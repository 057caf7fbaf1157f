"""What a data set is made of, and what a clip has to be to get into one.

Legend: F frames, D features of a frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_motion.types import Representation

SPLIT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""`train`, `val` and `test` are known to the commands; a data set may have others."""
MOST_FRAMES = 100_000
"""Of a clip: more than an hour is no clip."""
_MOST_NAME, _MOST_TEXT, _MOST_TOKENS = 200, 1000, 1000


class Shape(NamedTuple):
    """Of a representation: features of a frame, joints that they describe, the field's frames per second."""

    features_D: int
    joints_J: int
    fps: float


SHAPES = {
    Representation.HUMANML3D_263: Shape(263, 22, 20.0),
    Representation.KIT_251: Shape(251, 21, 12.5),
    Representation.SMPLRIFKE_205: Shape(205, 22, 20.0),
}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that says what a clip shows.

    tokens: `word/POS`, as HumanML3D has them; none where nobody gave them. start_s, end_s: the part of the recording
    that the clip was cut out for, as its file tells it, in seconds; both 0: the whole recording.
    """

    text: str
    tokens: tuple[str, ...] = ()
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Clip:
    """A motion with what is said of it.

    id: no two clips share one. trial: clips of one trial are of one recording: parts, mirror images. features_FD:
    float32, not normalised; of a data set that was opened, a read-only view of its file. captions: none where nobody
    wrote any. mirrored: the mirror image of what was recorded.
    """

    id: str
    split: str
    trial: str
    features_FD: NDArray[np.float32]
    captions: tuple[Caption, ...]
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class FileReport:
    """What there is to tell of an input file; nothing, and no report, of one that is as it should be.

    file: its path in what was imported. wrong: what was wrong with it, a line each. guessed: what it does not tell and
    was assumed, a line each. left_out: why nothing or not all of it is in the data set, in words that many files share,
    as they are counted; empty where all of it is.
    """

    file: str
    wrong: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and deviation (positive) of every feature over the frames, by which a model normalises."""

    mean_D: NDArray[np.float32]
    std_D: NDArray[np.float32]


def fault_of(clip: Clip, features_D: int) -> str:
    """Why a clip cannot be in a data set of so many features, in few words that many clips share; empty if it can.

    Its captions are judged one by one, by `caption_fault`.
    """
    x_FD = clip.features_FD
    if not _is_name(clip.id) or not _is_name(clip.trial):
        return f"an id or a trial that is no text of 1 to {_MOST_NAME} printable characters"
    if not SPLIT_NAME.fullmatch(clip.split):
        return "a split whose name is no word of a-z, 0-9, - and _"
    if x_FD.ndim != 2 or x_FD.dtype != np.float32 or x_FD.shape[1] != features_D:
        return f"not float32 [frames, {features_D}]"
    if not 1 <= len(x_FD) <= MOST_FRAMES:
        return f"not 1 to {MOST_FRAMES} frames"
    return "" if np.isfinite(x_FD).all() else "NaN or infinite features"


def caption_fault(caption: Caption) -> str:
    """Why a caption cannot be in a data set, in few words; empty if it can."""
    if not 1 <= len(caption.text) <= _MOST_TEXT or not caption.text.isprintable() or caption.text.isspace():
        return f"a caption that is no text of 1 to {_MOST_TEXT} printable characters"
    if len(caption.tokens) > _MOST_TOKENS or not all(map(_is_token, caption.tokens)):
        return "tokens that are not word/POS"
    if not 0 <= caption.start_s <= caption.end_s < np.inf:
        return "a caption whose times are not in order"
    return ""


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= _MOST_NAME and text.isprintable()


def _is_token(token: str) -> bool:
    word, slash, tag = token.rpartition("/")
    return bool(word and slash and tag) and len(token) <= _MOST_NAME and token.isprintable()
