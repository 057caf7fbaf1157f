"""The text-only prompt pool: an iteration's prompts are a function of (seed, iteration) and, where the job's curriculum
follows the learner, of what the ledger knew when they were drawn."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_motion.config import TrainConfig, UserError, nearest
from rl_motion.prompts.curricula import Curriculum, Draw
from rl_motion.tracking.files import read_whole
from rl_motion.types import Prompt, Unit

MAX_TEXT = 1000
MAX_FRAMES = 2000
_MAX_BYTES = 100_000_000


class PromptPool:
    """Prompts by source, mixed by weight.

    Every iteration takes the same number of prompts from a source (largest remainder of the weights); which ones,
    the job's curriculum says (curricula.py). No prompt comes twice in an iteration.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Prompt]],
        weights: Mapping[str, float],
        seed: int,
        curriculum: Curriculum | None = None,
        set_aside: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """A prompt that several sources share belongs to the first of them.

        Args:
            sources: prompts by source name.
            weights: positive, by source name.
            seed: of the draws and of the units' noise.
            curriculum: which prompts an iteration draws; None: `uniform`.
            set_aside: how many prompts of a source were left out before, by reason, for people to know.

        Raises:
            UserError: there is no source, or one is empty, or the weights do not fit the sources, or the curriculum
                asks for the difficulty of prompts that have none.
        """
        if not sources or sources.keys() != weights.keys():
            raise UserError(
                f"got prompt sources {sorted(sources)} and weights for {sorted(weights)}; want at least one "
                "source, "
                "each with a weight; mend prompts.sources"
            )
        seen: set[str] = set()
        self._sources: dict[str, list[Prompt]] = {}
        for name, prompts in sources.items():
            unique = {prompt.id: prompt for prompt in prompts if prompt.id not in seen}
            if not unique:
                raise UserError(f"prompts.sources: got no prompt of its own in {name!r}; want some; add or remove it")
            seen |= unique.keys()
            self._sources[name] = list(unique.values())
        self._by_id = {prompt.id: prompt for prompt in self.prompts}
        self._weights = dict(weights)
        self._seed = seed
        self._curriculum = curriculum or Curriculum()
        self.set_aside = {name: dict(counts) for name, counts in (set_aside or {}).items() if counts}
        """Prompts that are not here because an encoder or the model does not read them, by source and reason; sources
        without any left out."""
        if self._curriculum.settings.curriculum == "difficulty":
            self._refuse_unrated()

    @property
    def sources(self) -> Mapping[str, Sequence[Prompt]]:
        """Every prompt, by source."""
        return self._sources

    @property
    def unread(self) -> int:
        """How many prompts were left out before."""
        return sum(count for counts in self.set_aside.values() for count in counts.values())

    @property
    def prompts(self) -> list[Prompt]:
        """Every prompt, source by source."""
        return [prompt for prompts in self._sources.values() for prompt in prompts]

    @property
    def sha256(self) -> str:
        """Hash of every prompt, source, weight and known difficulty, in order."""
        content = [
            [name, self._weights[name], [[p.id, p.text, p.length, p.group, *self._rating(p)] for p in prompts]]
            for name, prompts in self._sources.items()
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    def check(self, sizes: TrainConfig) -> None:
        """Refuse sizes that this pool cannot serve, before anything starts; raises UserError."""
        for name, count in self._counts(sizes.prompts_per_iteration).items():
            if count == 0:
                raise UserError(
                    f"prompts.sources: {name!r} with weight {self._weights[name]} gets none of the "
                    f"{sizes.prompts_per_iteration} prompts of an iteration; want at least one; "
                    "raise its weight or train.prompts_per_iteration"
                )
            if count > len(self._sources[name]):
                raise UserError(
                    f"prompts.sources: got {len(self._sources[name])} different prompts in {name!r}; want "
                    f"{count} for "
                    "every iteration; add prompts, or lower train.prompts_per_iteration (and "
                    "train.prompts_per_unit)"
                )

    def draw(self, iteration: int, sizes: TrainConfig, spread: Mapping[str, float] | None = None) -> list[Unit]:
        """The iteration's units, `prompts_per_unit` prompts each, sources interleaved.

        Args:
            iteration: from 0.
            sizes: how many prompts, and in units of how many.
            spread: smoothed standard deviation of the rewards of a prompt's samples, by the id of those that taught.

        Raises:
            UserError: see `check`.
        """
        self.check(sizes)
        slots = [
            ((position + 0.5) / count, order, prompt)
            for order, (name, count) in enumerate(self._counts(sizes.prompts_per_iteration).items())
            for position, prompt in enumerate(self._take(name, iteration, count, spread or {}))
        ]
        return self._units(iteration, sizes, [prompt for _, _, prompt in sorted(slots, key=lambda slot: slot[:2])])

    def again(self, iteration: int, sizes: TrainConfig, drawn: Sequence[str]) -> list[Unit]:
        """The units of an iteration that was drawn before, from the ids of its prompts in order, all in the pool."""
        return self._units(iteration, sizes, [self._by_id[name] for name in drawn])

    def _units(self, iteration: int, sizes: TrainConfig, drawn: Sequence[Prompt]) -> list[Unit]:
        size = sizes.prompts_per_unit
        return [
            Unit(
                seed=self._seed,
                iteration=iteration,
                index=index,
                prompts=tuple(drawn[index * size : (index + 1) * size]),
                samples_per_prompt=sizes.samples_per_prompt,
            )
            for index in range(len(drawn) // size)
        ]

    def _counts(self, total: int) -> dict[str, int]:
        return shared_out(total, {name: self._weights[name] for name in self._sources})

    def _take(self, name: str, iteration: int, count: int, spread: Mapping[str, float]) -> list[Prompt]:
        asked = Draw(
            seed=self._seed,
            source=name,
            prompts=self._sources[name],
            iteration=iteration,
            count=count,
            spread=spread,
        )
        return self._curriculum.draw(asked)

    def _rating(self, prompt: Prompt) -> list[float]:
        known = self._curriculum.difficulty.get(prompt.id)
        return [] if known is None else [known]

    def _refuse_unrated(self) -> None:
        for name, prompts in self._sources.items():
            if any(prompt.id not in self._curriculum.difficulty for prompt in prompts):
                raise UserError(
                    f"prompts.curriculum: got difficulty with the source {name!r}, whose prompts have none; want pools "
                    "that rl-motion prompts build made; choose other sources, or the curriculum uniform or signal"
                )


def shared_out(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """How many of `total` each name gets: largest remainder; ties go to the earlier name."""
    share = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: math.floor(share[name]) for name in weights}
    by_remainder = sorted(counts, key=lambda name: counts[name] - share[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def prompt_id(text: str, length: int) -> str:
    """Content hash of a prompt: the same text and length give the same id in every file and run."""
    return hashlib.sha256(f"{text}\x1f{length}".encode()).hexdigest()[:16]


def make_prompt(text: str, length: int) -> Prompt:
    """A prompt from what a user typed: spaces collapsed, its id the hash of its content.

    Args:
        text: 1 to 1000 characters, no control characters.
        length: frames, 1 to 2000.

    Raises:
        UserError: the text or the length is out of bounds.
    """
    clean = " ".join(text.split())
    if not clean or len(clean) > MAX_TEXT or not clean.isprintable():
        raise UserError(
            f"got the prompt {clean[:60]!r} ({len(clean)} characters); want 1 to {MAX_TEXT} printable "
            "characters; "
            "shorten or retype it"
        )
    if not 1 <= length <= MAX_FRAMES:
        raise UserError(f"got a length of {length} frames for {clean[:60]!r}; want 1 to {MAX_FRAMES}; change it")
    return Prompt(id=prompt_id(clean, length), text=clean, length=length)


def read_prompts(path: str | Path, default_length: int, splits: Sequence[str] = ()) -> list[Prompt]:
    """Prompts of a UTF-8 text file: one per line, `text` or `text#frames`; blank lines are skipped, repeats
    dropped.

    Args:
        path: of the file.
        default_length: frames of a prompt that comes without a length.
        splits: what else the caller takes in a file's place, for the message where there is no such file.

    Raises:
        UserError: the file is missing, not UTF-8 or empty, or a line is not a prompt (the message names the
            line).
    """
    try:
        text = read_whole(Path(path), _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: got bytes that are not UTF-8 (at {error.start}); want text; save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"prompts: got {str(path)[:200]!r}, which cannot be read ({reason}); want a pool, a text file of prompts"
            f"{''.join(f' or {split}' for split in splits)}; {nearest(path, splits, 'check the path')}"
        ) from None
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        words, mark, frames = line.rpartition("#")
        if mark and (not frames.strip().isdecimal() or len(frames) > 20):
            raise UserError(
                f"{path}, line {number}: got {frames.strip()[:60]!r} after '#'; want a number of frames; mend it"
            )
        try:
            prompt = make_prompt(words, int(frames)) if mark else make_prompt(line, default_length)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{path}: got no prompts; want one per line; write some")
    return list(prompts.values())
