"""The oracle's reading of a caption: its own words, no grammar.

Each table holds (value, pattern); the first pattern that is found decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Table = tuple[tuple[str, str], ...]
_LEXICON: Table = (
    ("jack", r"jacks|arms and legs apart"),
    ("sidestep", r"sideways|side steps|steps aside"),
    ("circle", r"circle"),
    ("spin", r"spins|on the spot$|rotates|twirls"),
    ("turn", r"\bturns\b|quarter turn"),
    ("reach", r"reaches|stretches"),
    ("twist", r"twists"),
    ("arms", r"both arms"),
    ("wave", r"wave|waving"),
    ("kick", r"kick"),
    ("punch", r"punch|strikes"),
    ("knee", r"a knee"),
    ("raise", r"(?:raises|lifts|puts) an arm"),
    ("squat", r"squat|crouches"),
    ("bow", r"bow\b|bows|waist"),
    ("sit", r"sits|seat|chair"),
    ("jump", r"jump|hops|leaps"),
    ("run", r"\bruns\b|running|jogs"),
    ("clap", r"claps|clapping"),
    ("lean", r"leans|tilts"),
    ("march", r"marches|marching|steps in place"),
    ("lunge", r"lunge"),
    ("heel", r"behind"),
    ("sneak", r"sneak|creeps"),
    ("walk", r"walks|walking|strolls"),
)
_SIDES = (
    ("counterclockwise", r"counterclockwise|anticlockwise"),
    ("clockwise", r"clockwise"),
    ("left", r"\bleft\b"),
    ("right", r"\bright\b"),
    ("forward", r"\bforwards?\b|\bahead\b"),
    ("backward", r"\bbackwards?\b"),
)
_COUNTS = ((1, r"\bonce\b|one time|single time"), (2, r"\btwice\b|two times"), (3, r"three times|thrice"))
_SPEEDS = (("slow", r"slow|unhurried"), ("fast", r"quick|fast|rapid"))
_GAZES = (("down", r"looking down|head down|floor"), ("up", r"looking up|head up|ceiling"))
_STYLES = (
    ("wings", r"arms spread|\bwings|outspread"),
    ("hips", r"on the hips|on hips|akimbo"),
    ("bent", r"bent knees|knees bent|low stance"),
)
_EXTENTS = (
    ("small", r"small|tight"),
    ("large", r"large|wide"),
    ("half", r"\bhalf"),
    ("full", r"full turn|all the way"),
    ("low", r"low seat|deep down"),
    ("high", r"high seat|not very deep"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """A dialect's words, by what they decide: tables of (value, pattern)."""

    actions: Table
    sides: Table
    counts: tuple[tuple[int, str], ...]
    speeds: Table
    gazes: Table
    styles: Table
    extents: Table


FIRST = Words(_LEXICON, _SIDES, _COUNTS, _SPEEDS, _GAZES, _STYLES, _EXTENTS)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a caption says; empty and 0 where it does not say."""

    action: str
    side: str
    count: int
    speed: str
    extent: str
    gaze: str
    style: str


def read(caption: str, words: Words = FIRST) -> Reading:
    """What the caption says, in the words of its dialect.

    Raises:
        ValueError: no known action in it.
    """
    text = caption.lower()

    def first(table: Table) -> str:
        return next((name for name, pattern in table if re.search(pattern, text)), "")

    action = first(words.actions)
    if not action:
        raise ValueError(
            f"got a caption without a known action: {caption!r}; the oracle judges the embedded worlds only"
        )
    side = "" if action == "bow" else first(words.sides)
    if action == "jump":
        side = side or "up"
    count = next((n for n, pattern in words.counts if re.search(pattern, text)), 0)
    extent = first(words.extents) if action in ("circle", "spin", "sit") else ""
    return Reading(action, side, count, first(words.speeds), extent, first(words.gazes), first(words.styles))
