"""What a training was told, as official code keeps it: `key: value` lines of an opt.txt, or JSON.

What is missing, or no such value, is a UserError that names the file and the key.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rl_motion.config import UserError
from rl_motion.models.official.reading import damaged, read_json
from rl_motion.tracking.files import read_whole

_MOST = 2**20
"""Bytes of an opt.txt; the official ones have one or two kB."""
_MOST_JSON = 2**24

V = TypeVar("V")
K = TypeVar("K", int, float, str, bool)


@dataclass(frozen=True, slots=True)
class Options:
    """An `opt.txt` of Guo et al.'s code and its descendants, whose values are texts."""

    path: Path
    values: Mapping[str, str]

    def text(self, key: str, default: str | None = None) -> str:
        """The value as it stands."""
        value = self.values.get(key, default)
        if value is None:
            raise _absent(self.path, key)
        return value

    def choice(self, key: str, known: Mapping[str, V]) -> V:
        """What a value stands for; no other is known."""
        value = self.text(key)
        if value not in known:
            raise self._bad(key, " or ".join(known))
        return known[value]

    def flag(self, key: str) -> bool:
        """True or False."""
        return self.choice(key, {"True": True, "False": False})

    def whole(self, key: str, most: int = 999_999) -> int:
        """A whole number from 1 up to `most`."""
        value = self.text(key)
        if not re.fullmatch("[1-9][0-9]{0,5}", value) or int(value) > most:
            raise self._bad(key, f"a whole number from 1 to {most}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        """A number; `default` where the key is not there."""
        try:
            return float(self.text(key, str(default)))
        except ValueError:
            raise self._bad(key, "a number") from None

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 1."""
        try:
            values = ast.literal_eval(self.text(key))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = None
        if (
            not isinstance(values, list)
            or not 0 < len(values) < 20
            or not all(type(v) is int and 0 < v < 1000 for v in values)
        ):
            raise self._bad(key, "a list like [2, 2, 2, 2]")
        return tuple(values)

    def _bad(self, key: str, wanted: str) -> UserError:
        return _bad(self.path, key, self.text(key), wanted)


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object, whose values have kinds; names are dotted where objects are nested."""

    path: Path
    content: Mapping[str, Any]

    def value(self, name: str, kind: type[K], default: K | None = None) -> K:
        """A value of one kind; a whole number is a float too."""
        found = _under(self.content, name)
        if found is None:
            if default is None:
                raise _absent(self.path, name)
            return default
        found = float(found) if kind is float and type(found) is int else found
        if type(found) is not kind:
            raise _bad(self.path, name, found, f"a {kind.__name__}")
        checked: K = found
        return checked

    def whole(self, name: str, most: int, default: int | None = None, *, least: int = 1) -> int:
        """A whole number up to `most`: more would build what no memory holds."""
        found = self.value(name, int, default)
        if not least <= found <= most:
            raise _bad(self.path, name, found, f"{least} to {most}")
        return found

    def choice(self, name: str, known: Mapping[str, V], default: str | None = None) -> V:
        """What a text stands for; no other is known."""
        found = self.value(name, str, default)
        if found not in known:
            raise _bad(self.path, name, found, " or ".join(known))
        return known[found]


def read_options(path: Path) -> Options:
    """The options of an opt.txt.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = read_whole(path, _MOST).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return Options(path, {key.strip(): value.strip() for key, value in pairs})


def mentions(path: Path, key: str) -> bool:
    """Whether there is an opt.txt with this key; never raises."""
    try:
        return path.is_file() and f"{key}:".encode() in read_whole(path, _MOST)
    except (OSError, ValueError):
        return False


def read_settings(path: Path) -> Settings:
    """The settings of a JSON file.

    Raises:
        UserError: it cannot be read, or is no object.
    """
    return Settings(path, read_json(path))


def mentions_json(path: Path, *names: str) -> bool:
    """Whether there is a JSON object with a value under each of these dotted names; never raises."""
    try:
        content: Any = json.loads(read_whole(path, _MOST_JSON))
    except (OSError, ValueError, RecursionError):
        return False
    return all(_under(content, name) is not None for name in names)


def _under(content: Any, name: str) -> Any:
    for part in name.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _absent(path: Path, key: str) -> UserError:
    return UserError(
        f"got {path} without {key!r}; want the file that the training wrote; copy it from the download that "
        "the weights are from"
    )


def _bad(path: Path, key: str, value: object, wanted: str) -> UserError:
    return UserError(
        f"got {key} {str(value)[:100]!r} in {path}; want {wanted}; copy the file from the download that the "
        "weights are from"
    )
