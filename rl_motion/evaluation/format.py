"""How numbers of a report are written, on the terminal and on the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float, *, percent: bool = False, sign: bool = False) -> str:
    """A value: per cent (or points) with one decimal, anything else with three; never a bare minus zero."""
    scaled, digits = (100 * value, 1) if percent else (value, 3)
    rounded = round(scaled, digits) + 0.0
    return f"{rounded:+.{digits}f}" if sign else f"{rounded:.{digits}f}"


def interval(estimate: Mapping[str, Any], *, percent: bool = False, sign: bool = False) -> str:
    """[low, high], or a dash where there is none."""
    if estimate["low"] is None or estimate["high"] is None:
        return "-"
    low, high = (number(estimate[end], percent=percent, sign=sign) for end in ("low", "high"))
    return f"[{low}, {high}]"
