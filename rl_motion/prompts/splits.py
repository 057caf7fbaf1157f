"""Which split a prompt belongs to: a function of its meta-motions alone, so that no other prompt can move it.

Held-out meta-motions appear in no prompt of another split; held-out compositions pair meta-motions that train knows
from other pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl_motion.prompts.author import Operation

if TYPE_CHECKING:
    from rl_motion.prompts.table import Split

HELD_OUT_METAS = 0.08
"""Share of the meta-motions."""
HELD_OUT_COMPOSITIONS = 0.08
"""Share of the compositions of meta-motions that are not held out."""
VAL = 0.04
"""Share of the same."""


def split_of(keys: Sequence[str], operation: Operation, detail: str) -> Split:
    """The split of a prompt.

    Args:
        keys: of its meta-motions, one or two; their order counts for nothing, nor does how a pair is combined.
        operation: what makes a prompt of a single meta-motion, which with
        detail: tells one such composition from another.
    """
    if any(meta_is_held_out(key) for key in keys):
        return "held_out_metas"
    place = _place("composition", *(sorted(keys) if len(keys) > 1 else (*keys, operation, detail)))
    if place < HELD_OUT_COMPOSITIONS:
        return "held_out_compositions"
    return "val" if place < HELD_OUT_COMPOSITIONS + VAL else "train"


def meta_is_held_out(key: str) -> bool:
    """Whether prompts with this meta-motion are kept apart."""
    return _place("meta", key) < HELD_OUT_METAS


def _place(*parts: str) -> float:
    """Evenly spread over 0..1."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
