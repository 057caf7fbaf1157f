"""A measurement in a process of its own: what others left there, models, caches, memory, is no part of its figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rl_motion.config import RunFault


def apart(script: str, what: str, *words: str, **variables: str) -> dict[str, Any]:
    """Run a script beside this one with these words; returns the JSON object of its last line.

    `what`: names it where it fails. `variables`: of its environment, beside ours.

    Raises:
        RunFault: the process failed.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    if ended.returncode != 0:
        raise RunFault(f"got exit code {ended.returncode} of {what}: {ended.stderr.strip()[-400:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
