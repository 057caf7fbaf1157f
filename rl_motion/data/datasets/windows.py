"""A split's captioned motion as rows to train on: windows of its clips, read from the mapped files when drawn.

Legend: N rows (a window with one of its captions), B rows of a batch, F frames, D features of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.data.datasets.clips import Statistics
from rl_motion.data.datasets.dataset import ClipView, Dataset
from rl_motion.data.datasets.statistics import RunningStatistics

LEAST_FRAMES = 8
"""Of a clip: two segments of an evaluator. A shorter one shows no action."""


def train_statistics(dataset: Dataset) -> Statistics:
    """Mean and deviation over the split `train` alone; those that came with the data may be of other splits too.

    Raises:
        UserError: there is no such split.
    """
    if dataset.info.statistics == "train":
        return dataset.statistics
    running = RunningStatistics(dataset.features_D)
    for clip in dataset.split("train"):
        running.add(clip.features_FD)
    return running.result(dataset.info.representation)


class Windows:
    """Windows of a split's captioned clips, once for every caption that is read; un-normalised.

    Attributes:
        captions: the distinct ones.
        length_N: frames of each row.
        caption_N: into `captions`.
        meaning_N: the recording that a row is of; rows of one recording are no contradictions of each other.
        left_out: captions that are not read, and clips without one or of too few frames.
    """

    def __init__(self, clips: ClipView, frames: int, reads: Callable[[str], bool] = lambda text: True) -> None:
        """Cut clips of more than `frames` frames into windows of so many, at most half of that apart.

        Args:
            clips: of one split.
            frames: of the longest window.
            reads: whether whoever trains reads a caption whole.
        """
        self._clips, self._frames = clips, frames
        self.left_out = {"captions": 0, "clips": 0}
        number: dict[str, int] = {}
        known: dict[str, bool] = {}
        trials: dict[str, int] = {}
        rows: list[tuple[int, int, int, int, int]] = []
        for index, (trial, length, texts) in enumerate(_lines(clips)):
            for text in texts:
                known.setdefault(text, reads(text))
            kept = [text for text in texts if known[text]]
            self.left_out["captions"] += len(texts) - len(kept)
            if not kept or length < LEAST_FRAMES:
                self.left_out["clips"] += 1
                continue
            meaning = trials.setdefault(trial, len(trials))
            for start in _starts(length, frames):
                cut = min(frames, length - start)
                rows += [(index, start, cut, number.setdefault(text, len(number)), meaning) for text in kept]
        self.captions = list(number)
        columns = np.asarray(rows, np.int64).reshape(-1, 5)
        self._clip_N, self._start_N = columns[:, 0], columns[:, 1]
        self.length_N, self.caption_N, self.meaning_N = (torch.from_numpy(columns[:, n].copy()) for n in (2, 3, 4))

    def __len__(self) -> int:
        """N."""
        return len(self._clip_N)

    def one_each(self) -> Tensor:
        """The row of every window with its first caption."""
        seen: dict[tuple[int, int], int] = {}
        for row, window in enumerate(zip(self._clip_N.tolist(), self._start_N.tolist(), strict=True)):
            seen.setdefault(window, row)
        return torch.tensor(list(seen.values()), dtype=torch.int64)

    def rows(self, mean_D: Tensor | None = None, std_D: Tensor | None = None) -> MappedRows:
        """The motion, normalised by these statistics where there are any."""
        return MappedRows(self, mean_D, std_D)

    def read(self, row: int) -> Tensor:
        """One row's motion [F, D], as long as it is."""
        start = int(self._start_N[row])
        features_FD = self._clips.dataset.features(int(self._clips.rows_N[self._clip_N[row]]))
        return torch.from_numpy(features_FD[start : start + int(self.length_N[row])].copy())

    @property
    def canvas(self) -> int:
        """Frames that every row fits into."""
        return min(self._frames, int(self.length_N.max()))


class MappedRows:
    """A window's motion by its number, as a tensor has it by its row."""

    def __init__(self, windows: Windows, mean_D: Tensor | None, std_D: Tensor | None) -> None:
        """Use `Windows.rows`."""
        self._windows, self._mean_D, self._std_D = windows, mean_D, std_D

    def __getitem__(self, rows_B: Tensor, /) -> Tensor:
        """Those rows [B, F, D], zero beyond their lengths; F is the same for every batch."""
        made = [self._windows.read(int(row)) for row in rows_B]
        if self._mean_D is not None and self._std_D is not None:
            made = [(x_FD - self._mean_D) / self._std_D for x_FD in made]
        x_BFD = torch.zeros(len(made), self._windows.canvas, made[0].shape[1])
        for row, x_FD in enumerate(made):
            x_BFD[row, : len(x_FD)] = x_FD
        return x_BFD


def _lines(clips: ClipView) -> Iterator[tuple[str, int, list[str]]]:
    """Trial, frames and distinct captions of every clip; no motion is read."""
    trials = clips.trials
    for index, frames in enumerate(clips.frames_N.tolist()):
        yield trials[index], frames, list(dict.fromkeys(caption.text for caption in clips.captions(index)))


def _starts(length: int, frames: int) -> list[int]:
    return [0] if length <= frames else [*range(0, length - frames, max(frames // 2, 1)), length - frames]


def refuse_empty(windows: Windows, dataset: Dataset, split: str) -> None:
    """Refuse a split of which nothing can be trained on.

    Raises:
        UserError: says what was left out.
    """
    if not len(windows):
        raise UserError(
            f"got {dataset.directory}, whose split {split!r} has nothing to train on ({windows.left_out['clips']} "
            f"clips without a caption that is read, or of fewer than {LEAST_FRAMES} frames); want captioned motion; "
            "import the data with its captions"
        )
