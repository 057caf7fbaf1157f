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
    """A judge for the joints of each representation, whose bones are its own; `reads` are those that have one."""

    judge: Callable[[Representation], Judge]
    reads: frozenset[Representation]


def success_B(
    joints_BFJ3: Tensor, length_B: Tensor, prompts: Sequence[Prompt], *, fps: float, judge: Judge
) -> list[bool]:
    """The judge's verdict on the valid frames of each row, for the row's own prompt."""
    return [
        bool(judge(prompt.text, joints_FJ3[:length].numpy(), fps))
        for prompt, joints_FJ3, length in zip(prompts, joints_BFJ3, length_B.tolist(), strict=True)
    ]
