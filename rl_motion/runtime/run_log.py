"""A run's log on disk: without room on it the run ends for its own reasons, not for those of its log."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)


class RunLog(logging.FileHandler):
    """A file of `logs/`. What cannot be written is kept and tried again with the next line; that is said once."""

    def __init__(self, path: Path, formatter: logging.Formatter) -> None:
        """Appends.

        Raises:
            OSError: the file cannot be opened.
        """
        super().__init__(path, encoding="utf-8")
        self.setFormatter(formatter)
        self._said = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Say it to whoever else listens, where logging would print a traceback for every line."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif not self._said:
            self._said = True
            _log.warning("%s cannot be written; the run goes on without it; look at the disk", self.baseFilename)

    def close(self) -> None:
        """What could not be written is lost; raises nothing that would hide why the run ended."""
        with suppress(OSError):
            super().close()
