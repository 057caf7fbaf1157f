"""The two ways a command ends badly: the user's mistake, or a fault of the run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's. Its message says got / want / do; exit code 2, no traceback."""


class RunFault(Exception):
    """A run that cannot go on. Its message says what was saved and how to resume; exit code 1."""


class Paused(KeyboardInterrupt):
    """A run that stopped itself, as Ctrl-C would have: nothing is lost. Its message says why; exit code 130."""


class AuditError(RunFault):
    """Replay does not reproduce the rollout bit for bit, so no update may be made."""


def nearest(got: object, known: Iterable[str], otherwise: str) -> str:
    """The end of a message about a name that is none of the known: the near one, or what else there is to do."""
    near = difflib.get_close_matches(str(got)[:200], list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise
