"""The oracle's reading of the second dialect's captions: its own words, no grammar.

Each table holds (value, pattern); the first pattern that is found decides.
"""

from __future__ import annotations

from rl_motion.data import oracle_reading
from rl_motion.data.oracle_reading import Reading, Table, Words

_LEXICON: Table = (
    ("jack", r"jacks|legs and arms apart"),
    ("sidestep", r"sideways|side steps"),
    ("circle", r"circle"),
    ("spin", r"\bspins\b"),
    ("turn", r"quarter|turns the body"),
    ("arms", r"both arms up"),
    ("reach", r"out in front"),
    ("raise", r"an arm up"),
    ("wave", r"\bwav(?:e|ing)\b"),
    ("kick", r"kick"),
    ("punch", r"punch"),
    ("knee", r"a knee"),
    ("squat", r"squat|crouches"),
    ("bow", r"\bbow\b|bends forward"),
    ("sit", r"takes a seat|sits"),
    ("jump", r"leaps|hops"),
    ("run", r"running|jogs"),
    ("lean", r"leans"),
    ("march", r"marching|steps in place"),
    ("walk", r"walks|walking"),
)
_SIDES = (
    ("counterclockwise", r"counterclockwise|anticlockwise"),
    ("clockwise", r"clockwise"),
    ("left", r"\bleft\b"),
    ("right", r"\bright\b"),
    ("backward", r"rear|backward"),
    ("forward", r"forward|straight ahead"),
)
_COUNTS = ((3, r"three times|thrice"), (2, r"two times|twice"), (1, r"single time|\bonce\b"))
_SPEEDS = (("slow", r"slowly|slow pace|gradually"), ("fast", r"quickly|fast pace|hastily"))
_GAZES = (("down", r"head down|lowered head"), ("up", r"head up|raised head"))
_STYLES = (("wings", r"arms spread|like wings"), ("hips", r"on hips|akimbo"), ("bent", r"knees bent|bent legs"))
_EXTENTS = (
    ("small", r"small|tight"),
    ("large", r"large|wide"),
    ("half", r"half a turn|180"),
    ("full", r"full turn|360"),
    ("low", r"low seat|very deep"),
    ("high", r"high seat|not deep"),
)
WORDS = Words(_LEXICON, _SIDES, _COUNTS, _SPEEDS, _GAZES, _STYLES, _EXTENTS)


def read(caption: str) -> Reading:
    """What the caption says.

    Raises:
        ValueError: no known action in it.
    """
    return oracle_reading.read(caption, WORDS)
