"""Captions from wherever people keep them. One bad line never loses the others: it is set aside with its reason."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

from rl_motion.config.errors import UserError, nearest
from rl_motion.tracking.files import read_whole

FPS = 20.0
"""Frames per second of every length."""
TRAINING_SPLITS = ("target/train", "source/train")
"""What of the embedded world may be a source; its other splits are kept for evaluation."""
_MAX_TEXT = 1000
_MAX_BYTES = 100_000_000
_MAX_LABEL, _MAX_ID = 80, 100
_COLUMNS = ("id", "text", "caption", "n_frames", "duration_s")
"""Of a table; what else is in it is passed over."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""What bytes that are not UTF-8 become while lines are told apart, and what `\\ud800` stands for in JSON."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a source tells of a motion.

    ids: `file/record/number`, one for each place where it stands, of 200 characters at most. frames: of the motion, at
    20 fps; of several the lower median; None where no source tells.
    """

    ids: tuple[str, ...]
    text: str
    frames: int | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, or one caption of it, that cannot be used; its text printable and cut short."""

    where: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Captions:
    """All that was read.

    captions: no two of them differ in case and spaces alone. repeats: how many were merged into those. bad: set aside.
    """

    captions: tuple[Caption, ...]
    repeats: int
    bad: tuple[BadLine, ...]

    @property
    def found(self) -> int:
        """Entries of the sources: each of them is a caption, a repeat or bad."""
        return len(self.captions) + self.repeats + len(self.bad)


class _Bad(Exception):
    """Why a line is set aside; few different words, as people are shown counts of them."""


_Parse = Callable[[str, str], Iterator[Caption | BadLine]]
"""(a line, its id) -> its captions."""


def read_captions(names: Sequence[str], option: str = "--source") -> Captions:
    """The captions of files, folders and splits of the embedded world, repeats merged.

    Args:
        names: `.jsonl` (`captions` or `text` or `caption`, and if wanted `id`, `n_frames` or `duration_s`), `.csv` (the
            same as columns, without `captions`), `.txt` (`text` or `text#frames`), folders of HumanML3D's `texts`
            (`caption#tokens#start#end`), splits.
        option: of the command line, for messages; of `--exclude`, every split is taken.

    Raises:
        UserError: a source cannot be read, or there is nothing in it that can be used.
    """
    merged: dict[str, list[Caption]] = {}
    bad: list[BadLine] = []
    for name, label in zip(names, _labels(names), strict=True):
        reasons: Counter[str] = Counter()
        usable = 0
        for entry in _entries(name, label, option):
            if isinstance(entry, Caption):
                usable += 1
                merged.setdefault(entry.text.casefold(), []).append(entry)
            else:
                reasons[entry.reason] += 1
                bad.append(entry)
        if not usable:
            found = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "nothing"
            raise UserError(
                f"got {option} {name[:200]}, in which no caption can be read ({found}); want text; check the file"
            )
    captions = tuple(_merge(same) for same in merged.values())
    return Captions(captions, sum(map(len, merged.values())) - len(captions), tuple(bad))


def _merge(same: Sequence[Caption]) -> Caption:
    frames = [caption.frames for caption in same if caption.frames is not None]
    ids = tuple(dict.fromkeys(one for caption in same for one in caption.ids))
    return replace(same[0], ids=ids, frames=median_low(frames) if frames else None)


def _labels(names: Sequence[str]) -> list[str]:
    """What ids of a source begin with: as much of the end of its path as tells it from the others."""
    paths = [Path(os.path.abspath(name)).parts for name in names]
    deepest = max(map(len, paths), default=1)
    enough = (n for n in range(1, deepest) if len({path[-n:] for path in paths}) == len(set(paths)))
    depth = next(enough, deepest)
    return [_shown("/".join(path[-depth:])[-_MAX_LABEL:])[-_MAX_LABEL:] for path in paths]


def _entries(name: str, label: str, option: str) -> Iterator[Caption | BadLine]:
    splits = _splits()
    if name in splits:
        if option == "--source" and name not in TRAINING_SPLITS:
            raise UserError(
                f"got --source {name}, which is kept for evaluation; want {' or '.join(TRAINING_SPLITS)}, or a file; "
                "choose one"
            )
        return _of_world(name)
    path = Path(name)
    try:
        if path.is_dir():
            return _of_folder(path, label, option)
        parse = _PARSERS.get(path.suffix.lower())
        if parse is None:
            splits = TRAINING_SPLITS if option == "--source" else splits
            known = f"{', '.join(_PARSERS)}, a folder of texts or one of {', '.join(splits)}"
            raise UserError(
                f"got {option} {name[:200]!r}; want {known}; {nearest(name, splits, 'choose one of these')}"
            )
        text = _text(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"got {option} {name[:200]!r}, which cannot be read ({reason}); want a file of captions; check the path"
        ) from None
    return parse(text, label)


def _splits() -> tuple[str, ...]:
    from rl_motion.data.embedded import SPLITS  # needs torch

    return SPLITS


def _of_world(split: str) -> Iterator[Caption]:
    """A split's captions; of one that is kept for evaluation every wording, as many as can be avoided."""
    from rl_motion.data.embedded import prompts, wordings

    for prompt in prompts(split) if split in TRAINING_SPLITS else wordings(split):
        yield Caption((f"{split}/{prompt.id}",), prompt.text, prompt.length)


def _of_folder(folder: Path, label: str, option: str) -> Iterator[Caption | BadLine]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"got {option} {folder}, a folder without .txt files; want HumanML3D's texts; check the path")
    for path in files:
        name = f"{label}/{_shown(path.stem)[:_MAX_ID]}"
        try:
            text = _text(path)
        except OSError as error:
            yield BadLine(name, "a file that cannot be read", error.strerror or "")
        else:
            yield from _by_line(text, name, _humanml3d)


def _text(path: Path) -> str:
    """A file's text; bytes that are not UTF-8 become surrogates, which `_clean` refuses in their own line alone."""
    return read_whole(path, _MAX_BYTES).decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")


def _by_line(text: str, label: str, parse: _Parse) -> Iterator[Caption | BadLine]:
    # `\n` alone ends a line: JSON may hold the other characters that str.splitlines takes for ends.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        name = f"{label}/{number}"
        try:
            yield from parse(line.strip("\r\n"), name)
        except _Bad as bad:
            yield BadLine(name, str(bad), _shown(line.strip()))


def _jsonl(text: str, label: str) -> Iterator[Caption | BadLine]:
    names: set[str] = set()

    def parse(line: str, name: str) -> Iterator[Caption | BadLine]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _Bad("not UTF-8" if _SURROGATE.search(line) else "not JSON") from None
        if not isinstance(value, dict):
            raise _Bad("not an object")
        yield from _record(value, label, name, names)

    return _by_line(text, label, parse)


def _csv(text: str, label: str) -> Iterator[Caption | BadLine]:
    first, _, rest = text.partition("\n")
    try:
        columns = [column.strip().lower() for column in _fields(first.strip("\r"))]
    except _Bad:
        columns = [first]
    if not {"text", "caption"} & set(columns):
        shown = _shown(", ".join(columns))
        raise UserError(f"got {label} with the columns {shown!r}; want text or caption among them; name one so")
    names: set[str] = set()

    def parse(line: str, name: str) -> Iterator[Caption | BadLine]:
        fields = _fields(line)
        if len(fields) != len(columns):
            raise _Bad("not as many fields as columns")
        known = {c: f for c, f in zip(columns, fields, strict=True) if c in _COLUMNS and f.strip()}
        yield from _record(known, label, name, names)

    # A row is a line, so that a quote that is never closed takes no other row with it.
    return _by_line(f"\n{rest}", label, parse)


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        raise _Bad("not CSV, such as a quote that its line does not close") from None


def _txt(text: str, label: str) -> Iterator[Caption | BadLine]:
    def parse(line: str, name: str) -> Iterator[Caption]:
        words, mark, frames = line.rpartition("#")
        yield Caption((name,), _clean(words if mark else line), _number(frames, 1.0, "frames") if mark else None)

    return _by_line(text, label, parse)


def _humanml3d(line: str, name: str) -> Iterator[Caption]:
    caption, *_, start, end = line.split("#") if line.count("#") == 3 else ("", "", "", "")
    if not end:
        raise _Bad("not caption#tokens#start#end")
    try:
        seconds = float(end) - float(start)
    except ValueError:
        raise _Bad("not caption#tokens#start#end") from None
    # 0.0#0.0, and in some files nan: the whole motion, whose length stands elsewhere.
    told = math.isfinite(seconds) and seconds * FPS >= 1
    yield Caption((name,), _clean(caption), round(seconds * FPS) if told else None)


_PARSERS: dict[str, Callable[[str, str], Iterator[Caption | BadLine]]] = {".jsonl": _jsonl, ".txt": _txt, ".csv": _csv}
"""(a file's text, its label) -> its captions."""


def _record(value: Mapping[str, Any], label: str, name: str, names: set[str]) -> Iterator[Caption | BadLine]:
    """The captions of an object; of several, each is judged alone.

    Args:
        value: the object.
        label: of the source.
        name: `label/line`, its id where it has none of its own.
        names: of the objects before it. An id that is among them is told apart by its line.
    """
    line = name.removeprefix(f"{label}/")
    if (identity := value.get("id")) is not None:
        short = isinstance(identity, str | int) and str(identity).isprintable() and 1 <= len(str(identity)) <= _MAX_ID
        if not short or isinstance(identity, bool):
            raise _Bad("an id that is no short text")
        name = f"{label}/{identity}"
    while name in names:
        name = f"{name}:{line}"
    names.add(name)
    frames = _number(value.get("n_frames"), 1.0, "n_frames") or _number(value.get("duration_s"), FPS, "duration_s")
    if "captions" not in value:
        text = value.get("text", value.get("caption"))
        if text is None:
            raise _Bad("no captions, text or caption")
        yield Caption((name,), _clean(text), frames)
        return
    texts = value["captions"]
    if not isinstance(texts, list) or not texts:
        raise _Bad("captions that are no list, or an empty one")
    for number, text in enumerate(texts):
        try:
            yield Caption((f"{name}/{number}",), _clean(text), frames)
        except _Bad as bad:
            yield BadLine(f"{name}/{number}", str(bad), _shown(str(text)))


def _clean(text: object) -> str:
    """Spaces collapsed; raises `_Bad` where that is no text for a person to read."""
    if not isinstance(text, str):
        raise _Bad("not text")
    if _SURROGATE.search(text):
        raise _Bad("not UTF-8")
    clean = " ".join(text.split())
    if not clean:
        raise _Bad("empty")
    if not clean.isprintable():
        raise _Bad("control characters")
    if len(clean) > _MAX_TEXT:
        raise _Bad(f"over {_MAX_TEXT} characters")
    return clean


def _number(value: object, per: float, name: str) -> int | None:
    """A length in frames, of which `per` make one of the value's units; None where there is none."""
    if value is None:
        return None
    try:
        frames = float(str(value)) * per if not isinstance(value, bool) else math.nan
    except ValueError:
        frames = math.nan
    if not 1 <= frames < 1e9:
        raise _Bad(f"{name} that is no positive number")
    return round(frames)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:200])
