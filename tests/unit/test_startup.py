"""What commands that do little leave unread: seconds that everybody would wait for."""

import subprocess
import sys
from functools import cache

import pytest


@pytest.mark.parametrize("heavy", ["torch", "ray", "mlflow", "transformers", "numpy", "pydantic"])
def test_help_reads_nothing_heavy(heavy):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom rl_motion.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\nprint('\\n'.join(sys.modules))"
    )
    assert heavy not in _modules(code)


def test_the_schema_is_read_when_it_is_asked_for():
    assert "pydantic" not in _modules("import sys, rl_motion.config\nprint('\\n'.join(sys.modules))")
    assert "pydantic" in _modules("import sys\nfrom rl_motion.config import Job\nprint('\\n'.join(sys.modules))")


def test_every_name_of_the_schema_is_there():
    from rl_motion import config

    assert all(getattr(config, name) is not None for name in config.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Jop'"):
        _ = config.Jop


@cache
def _modules(code):
    """Names of the modules that a process has read after this code, which prints them."""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return set(ended.stdout.split())
