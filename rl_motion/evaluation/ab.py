"""A blind comparison of two motions of every prompt, for people: which pairs, in which order, on which sides.

As the user study of "No MoCap Needed" (section 5.2: 30 people, 20 pairs, realism and adherence to the text), with
"no difference" as a third answer and one pair shown again with its sides exchanged, which measures how steady a
person's answers are. The page knows sides A and B alone; which arm is on which is in the key, a file of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rl_motion.config import UserError
from rl_motion.motion.rotations import FloatArray
from rl_motion.tracking.files import read_whole

PAIRS = 20
QUESTIONS = {
    "realism": "Which moves more like a real person?",
    "adherence": "Which does better what the text says?",
}
Side = Literal["A", "B"]
Choice = Literal["A", "B", "same"]
Question = Literal["realism", "adherence"]
PageId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
PairId = Annotated[str, Field(pattern=r"^p[0-9]{2,5}$")]
_MAX_BYTES = 5_000_000


@dataclass(frozen=True, eq=False)
class Candidate:
    """A prompt with a motion of each arm, joints [F, J, 3] in metres: `first` is what `second` is compared with."""

    prompt_id: str
    text: str
    first_FJ3: FloatArray
    second_FJ3: FloatArray
    fps: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A pair as the page shows it, without a word on which arm is where."""

    id: str
    text: str
    a_FJ3: FloatArray
    b_FJ3: FloatArray
    fps: float


class Foreign(BaseModel):
    """What comes back from elsewhere: frozen, nothing unknown in it, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeyPair(Foreign):
    """Which arm was on side A, and the pair that this one repeats with exchanged sides."""

    id: PairId
    prompt_id: str
    text: str
    a: Literal["first", "second"]
    repeats: PairId | None


class Key(Foreign):
    """What only whoever made the page has. `first` and `second` name the arms."""

    format: Literal[1] = 1
    page: PageId
    first: str
    second: str
    seed: int
    pairs: Annotated[list[KeyPair], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Key:
        by_id = {pair.id: pair for pair in self.pairs}
        repeated = [by_id.get(pair.repeats) for pair in self.pairs if pair.repeats]
        if len(by_id) < len(self.pairs) or any(pair is None or pair.repeats for pair in repeated):
            raise ValueError("pairs repeat ids, or repeat what is no pair")
        return self


class Answers(Foreign):
    """One person's answers, by pair and question; what was not answered is missing."""

    format: Literal[1]
    page: PageId
    rater: Annotated[str, Field(min_length=1, max_length=60)]
    saved: Annotated[str, Field(max_length=40)]
    answers: dict[PairId, dict[Question, Choice]]


def make_trials(candidates: Sequence[Candidate], pairs: int, seed: int) -> tuple[list[Trial], list[KeyPair]]:
    """Draw pairs, their order and their sides; what is shown, and what the key says of it, pair by pair.

    One pair of the first third comes again in the last third, with its sides exchanged.

    Raises:
        UserError: too few prompts.
    """
    if pairs > len(candidates):
        raise UserError(
            f"got {len(candidates)} prompts with motions of both; want {pairs} pairs; lower --pairs, or evaluate more "
            "prompts (evaluation.prompts)"
        )
    rng = np.random.default_rng(seed)
    chosen = [(int(place), bool(rng.integers(2))) for place in rng.permutation(len(candidates))[:pairs]]
    again = int(rng.integers(max(1, pairs // 3)))
    at = pairs - int(rng.integers(max(1, pairs // 3)))
    shown = [(place, swapped, False) for place, swapped in chosen]
    shown.insert(at, (chosen[again][0], not chosen[again][1], True))
    trials, key = [], []
    for number, (place, swapped, repeated) in enumerate(shown, 1):
        one, name = candidates[place], f"p{number:02d}"
        sides = (one.second_FJ3, one.first_FJ3) if swapped else (one.first_FJ3, one.second_FJ3)
        trials.append(Trial(name, one.text, *sides, one.fps))
        repeats = f"p{again + 1:02d}" if repeated else None
        arm: Literal["first", "second"] = "second" if swapped else "first"
        key.append(KeyPair(id=name, prompt_id=one.prompt_id, text=one.text, a=arm, repeats=repeats))
    return trials, key


def page_id(trials: Sequence[Trial]) -> str:
    """A name that follows from what the page shows: answers to other motions, or to other sides, bear another."""
    content = [
        [trial.id, trial.text, trial.fps, *(_hash(joints_FJ3) for joints_FJ3 in (trial.a_FJ3, trial.b_FJ3))]
        for trial in trials
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _hash(joints_FJ3: FloatArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(joints_FJ3, dtype="<f4").tobytes()).hexdigest()


def read_key(path: Path) -> Key:
    """The key of a page; raises UserError."""
    try:
        return Key.model_validate_json(_content(path, "the key that was written with the page"))
    except ValidationError as error:
        raise UserError(
            f"{path}: got no key ({_first(error)}); want the file *.key.json that was written with the page; choose it"
        ) from None


def read_answers(paths: Sequence[Path], key: Key) -> list[Answers]:
    """Everybody's answers.

    Raises:
        UserError: a file is no answers, answers another page, names a pair that the page has not, holds nothing, or
            somebody answers twice.
    """
    found = [_read_one(path, key) for path in paths]
    counts = Counter(_person(one.rater) for one in found)
    for one, path in zip(found, paths, strict=True):
        if counts[_person(one.rater)] > 1:
            raise UserError(
                f"{path}: got {counts[_person(one.rater)]} files of {one.rater!r}; want one of everybody; choose the "
                "newest, or correct the name in it if these are two people"
            )
    return found


def _read_one(path: Path, key: Key) -> Answers:
    try:
        answers = Answers.model_validate_json(_content(path, "a file that the page saved"))
    except ValidationError as error:
        raise UserError(
            f"{path}: got no answers ({_first(error)}); want a file that the page saved, unchanged; choose that"
        ) from None
    if answers.page != key.page:
        raise UserError(
            f"{path}: got answers of page {answers.page}; want those of {key.page}, which the key is of; choose the "
            "key that was written with their page"
        )
    unknown = sorted(answers.answers.keys() - {pair.id for pair in key.pairs})
    if unknown:
        raise UserError(
            f"{path}: got an answer to pair {unknown[0]!r}, which the page has not; want what the page saved, "
            "unchanged; choose that"
        )
    if not any(answers.answers.values()):
        raise UserError(f"{path}: got no answer at all; want at least one; drop the file")
    return answers


def _content(path: Path, wanted: str) -> bytes:
    try:
        return read_whole(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"got {str(path)!r}, which cannot be read ({error.strerror}); want {wanted}; choose it"
        ) from None


def _first(error: ValidationError) -> str:
    """What is wrong first, without repeating what the file holds."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"][:2])[:40]
    return f"{place}: {first['type']}" if place else first["type"]


def _person(name: str) -> str:
    return " ".join(name.split()).casefold()


def votes_of(answers: Sequence[Answers], key: Key, question: Question) -> Mapping[str, Mapping[str, int | None]]:
    """By rater and pair: 1 for the second arm, -1 for the first, 0 for no difference, None where nothing was said."""
    return {
        one.rater: {pair.id: _vote(one.answers.get(pair.id, {}).get(question), pair) for pair in key.pairs}
        for one in answers
    }


def _vote(choice: Choice | None, pair: KeyPair) -> int | None:
    if choice is None:
        return None
    if choice == "same":
        return 0
    return 1 if (pair.a == "second") == (choice == "A") else -1
