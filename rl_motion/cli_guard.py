"""How every command ends: got, want, do for people, and an exit code for what called it."""

from __future__ import annotations

import errno
import logging
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError
from typer.core import TyperGroup

from rl_motion.config.errors import RunFault, UserError

_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE}
"""What only whoever runs the command can mend: no room, no right to write, too many open files."""

_SETTING = re.compile(r"((?:--?[\w-]+=)?\w[\w.-]*=).+", re.DOTALL)
"""`a.b=c`, alone or after `--set=`."""
_URI = re.compile(r"@|://")


class Commands(TyperGroup):
    """Typer's, whose mistakes on the command line end as all others do: got, want, do, exit code 2."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse and run; ends the process in standalone mode."""
        standalone_mode = extra.pop("standalone_mode", True)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except UsageError as error:
            if not standalone_mode:
                raise
            command = error.ctx.command_path if error.ctx else "rl-motion"
            usage = error.ctx.get_usage().removeprefix("Usage: ") if error.ctx else f"{command} COMMAND"
            words = extra.get("args") or (args and args[0]) or sys.argv[1:]
            typed = shlex.join(_without_values(word) for word in words)
            typed = typed if len(typed) <= 200 else f"{typed[:197]}..."
            said = error.format_message()
            for word in words:
                said = said.replace(word, _without_values(word)) if "=" in word or _URI.search(word) else said
            said = said.rstrip(".")[:500]
            _complain(UserError(f"got `{typed}`: {said}; want {usage}; see `{command} --help`"))
            code = error.exit_code
        if standalone_mode:
            sys.exit(code)
        return code


@contextmanager
def guarded() -> Iterator[None]:
    """Ends that people can act on: 2 for their mistakes, 1 for faults, 130 for Ctrl-C and for a pause."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("rl_motion")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except UserError as error:
        _fail(error, 2)
    except RunFault as error:
        _fail(error, 1)
    except KeyboardInterrupt as error:
        _fail(error, 130)
    except BrokenPipeError:  # `rl-motion config demo | head`: typer ends it quietly
        raise
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            _crash(error)
        mistake = UserError(
            f"got {error.strerror!r} at {error.filename or 'a file that was written'}; want room and the right to read "
            "and write there; make both, or choose another place"
        )
        for note in getattr(error, "__notes__", []):
            mistake.add_note(note)
        _fail(mistake, 2)
    except Exception as error:
        _crash(error)
    finally:
        logger.removeHandler(handler)


def _without_values(word: str) -> str:
    """A word of a command line that may be repeated: no value of a setting and no URI, which may hold a password."""
    shown = _SETTING.sub(r"\1...", word)
    return "..." if _URI.search(shown) else shown


def _crash(error: Exception) -> NoReturn:
    typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    raise typer.Exit(1) from None


def _fail(error: BaseException, code: int) -> NoReturn:
    _complain(error)
    raise typer.Exit(code) from None


def _complain(error: BaseException) -> None:
    """Say it on stderr, with its notes."""
    first = (str(error) or "interrupted") if isinstance(error, KeyboardInterrupt) else f"error: {error}"
    text = "\n".join([first, *getattr(error, "__notes__", [])])
    typer.echo(printable(text), err=True)


def printable(text: str) -> str:
    """What a file, an exception or another machine holds must not reach the terminal as an escape."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
