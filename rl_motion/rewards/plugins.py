"""Rewards of one's own: `FILE.py:CLASS` in a job names a class in a file of the job's working directory.

The class satisfies `rl_motion.protocols.Reward` and is made without arguments, on the worker that scores. Whoever
starts the run reads the file once; the source then travels with the job, so that workers need neither the file nor
the directory, and all of them run what was hashed. Only that file is hashed: keep in it what decides the reward.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from rl_motion.config import UserError
from rl_motion.protocols import Reward
from rl_motion.rewards.kind import Kind
from rl_motion.tracking.files import read_whole
from rl_motion.types import MotionForm

_NAME = re.compile(r"(?P<file>[^:]+\.py):(?P<cls>[^\W\d]\w*)")
_MAX_BYTES = 1_000_000
_WANT_FILE = "want a file in the job's working directory, named as it lies there"


def is_plugin(name: str) -> bool:
    """Whether a job means a class of its own by this name."""
    return ":" in name


def read_source(name: str, directory: Path) -> bytes:
    """The file that `FILE.py:CLASS` names in the working directory.

    Raises:
        UserError: not of that form, no such file, or a file elsewhere, be it through a symbolic link.
    """
    file, _ = _parts(name)
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or str(path) != file:
        raise UserError(f"rewards: got {name!r}; {_WANT_FILE}, such as my_reward.py:MyReward; copy the file there")
    root = directory.resolve()
    try:
        found = (root / path).resolve(strict=True)
        if not found.is_relative_to(root):
            raise UserError(
                f"rewards: got {name!r}, which is a link to {found}, out of {root}; {_WANT_FILE}; copy the file there"
            )
        return read_whole(found, _MAX_BYTES)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is a loop of links"
        raise UserError(
            f"rewards: got {name!r}, where {root / path} cannot be read ({reason}); {_WANT_FILE}; correct the name, "
            "or start from the directory that holds it"
        ) from None


def load_kind(name: str, source: bytes) -> Kind:
    """Run the source and find its class; the class is not yet made.

    Raises:
        UserError: the code fails, or what it defines is no reward.
    """
    _, cls = _parts(name)
    module = _run(name, source)
    named = getattr(module, cls, None)
    if not inspect.isclass(named):
        classes = sorted(
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        )
        raise UserError(
            f"rewards: got {name!r}, but no class {cls!r} is in the file; want one of {classes}; correct the name"
        )
    reward_class: type[Any] = named
    _check_protocol(name, reward_class)

    def make() -> Reward:
        try:
            reward: Reward = reward_class()
        except Exception as error:
            raise UserError(
                f"rewards: got {name!r}, whose {cls}() fails with {_said(error)}{_where(error, module)}; want a reward "
                "that can be made without arguments; correct it"
            ) from error
        return reward

    return Kind(make, frozenset(reward_class.accepts), reward_class.differentiable)


def _parts(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    if match is None or not match["file"].isprintable():
        raise UserError(f"rewards: got {name!r}; want FILE.py:CLASS, such as my_reward.py:MyReward; correct it")
    return match["file"], match["cls"]


def _run(name: str, source: bytes) -> ModuleType:
    """A module of that source, the same one for the same source: a process runs it once."""
    file, _ = _parts(name)
    key = f"rl_motion_plugin_{hashlib.sha256(file.encode() + b'=' + source).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    module = ModuleType(key)
    module.__file__ = file
    sys.modules[key] = module  # dataclasses and pickle look a class's module up there
    try:
        exec(compile(source, file, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise UserError(
            f"rewards: got {name!r}, whose code fails with {_said(error)}{_where(error, module)}; want a file that can "
            "be imported by itself; correct it"
        ) from error
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _check_protocol(name: str, reward_class: type[Any]) -> None:
    accepts = getattr(reward_class, "accepts", None)
    differentiable = getattr(reward_class, "differentiable", None)
    if not isinstance(accepts, set | frozenset) or not accepts or not all(isinstance(f, MotionForm) for f in accepts):
        raise _no_reward(name, f"accepts={accepts!r}", "`accepts`, a set of rl_motion.types.MotionForm, in the class")
    if not isinstance(differentiable, bool):
        raise _no_reward(name, f"differentiable={differentiable!r}", "`differentiable`, True or False, in the class")
    if not _takes(reward_class, 0):
        raise _no_reward(name, "an __init__ that wants arguments", "a class that is made without any")
    # A class without __call__ of its own still has one: its type's, which makes instances.
    own = any("__call__" in vars(base) for base in reward_class.__mro__)
    if not own or not _takes(reward_class.__call__, 3, noise_level_B=None):
        got = "another __call__" if own else "no __call__"
        raise _no_reward(name, got, "__call__(self, motions, prompts, noise_level_B=None)")


def _takes(function: Any, positional: int, **named: object) -> bool:
    try:
        inspect.signature(function).bind(*[None] * positional, **named)
    except (TypeError, ValueError):
        return False
    return True


def _no_reward(name: str, got: str, want: str) -> UserError:
    return UserError(
        f"rewards: {name!r} is no reward: got {got}; want {want}; correct it (the recipe is in CONTRIBUTING.md)"
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _where(error: BaseException, module: ModuleType) -> str:
    """The last line of the plugin's own that the error came through."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module.__file__]
    return f" (line {lines[-1]})" if lines else ""
