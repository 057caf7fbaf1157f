"""Whether each motion does what its prompt says, judged on the joints by rules that no model was trained on.

Legend: B rows, F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rl_motion.types import Prompt, Representation

Judge = Callable[[str, NDArray[np.float32], float], bool]
"""(caption, joints_FJ3 in metres, frames per second) -> does the motion do what the caption says?"""


@dataclass(frozen=True, slots=True)
class Judging:
    """A judge, and the representations of the motion that its rules are fitted to."""

    judge: Judge
    reads: frozenset[Representation]


def embedded_judge(caption: str, joints_FJ3: NDArray[np.float32], fps: float) -> bool:
    """The embedded world's oracle: the caption's rule holds, and the motion stays in the calibrated band."""
    from rl_motion.data.oracle import check

    return check(caption, joints_FJ3.astype(np.float64), fps).success


def success_B(
    joints_BFJ3: Tensor, length_B: Tensor, prompts: Sequence[Prompt], *, fps: float, judge: Judge
) -> list[bool]:
    """The judge's verdict on the valid frames of each row, for the row's own prompt."""
    return [
        bool(judge(prompt.text, joints_FJ3[:length].numpy(), fps))
        for prompt, joints_FJ3, length in zip(prompts, joints_BFJ3, length_B.tolist(), strict=True)
    ]
