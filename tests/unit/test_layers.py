"""Imports point downwards: the contracts in pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(prog_name='lint-imports')"
LOADED = "import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def modules_after_import(module: str, folder: Path) -> set[str]:
    command = [sys.executable, "-c", LOADED.format(module=module)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def contract(root: Path, identifier: str) -> dict[str, list[str]]:
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["id"] == identifier)


def layer_names(root: Path) -> list[str]:
    return re.findall(r"\w+", " ".join(contract(root, "layers")["layers"]))


@pytest.fixture
def skeleton(root: Path, tmp_path: Path) -> Path:
    """A package with our contracts, one empty sub-package per name in the layers, and no violation."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    for name in [*layer_names(root), "."]:
        package = tmp_path / "rl_motion" / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
    return tmp_path


def test_the_contracts_hold(root: Path) -> None:
    run = lint(root)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_package_without_violations_passes(skeleton: Path) -> None:
    run = lint(skeleton)
    assert run.returncode == 0, run.stdout + run.stderr


VIOLATIONS = [
    ("types", "import rl_motion.protocols", "Imports point downwards"),
    ("protocols", "import rl_motion.motion", "Imports point downwards"),
    ("diffusion", "import rl_motion.models", "Imports point downwards"),
    ("models", "import rl_motion.policies", "Imports point downwards"),
    ("rewards", "import rl_motion.policies", "Imports point downwards"),
    ("algorithms", "import rl_motion.learner", "Imports point downwards"),
    ("learner", "import rl_motion.evaluation", "Imports point downwards"),
    ("evaluation", "import rl_motion.runtime", "Imports point downwards"),
    ("runtime", "import rl_motion.cli", "Imports point downwards"),
    ("unheard_of", "", "Imports point downwards"),
    ("cli", "import ray", "Only runtime imports ray"),
    ("learner", "def step():\n    from ray import put", "Only runtime imports ray"),
    ("config", "import torch", "The job schema imports neither torch nor ray"),
    ("config", "import rl_motion.types", "The job schema imports neither torch nor ray"),
]


@pytest.mark.parametrize(("package", "code", "broken"), VIOLATIONS)
def test_each_violation_is_seen(skeleton: Path, package: str, code: str, broken: str) -> None:
    """Negative controls; `types` may import torch, so `config -> types -> torch` is caught as well."""
    (skeleton / "rl_motion/types/__init__.py").write_text("import torch\n")
    target = skeleton / "rl_motion" / package / "__init__.py"
    target.parent.mkdir(exist_ok=True)
    target.write_text(code + "\n")
    run = lint(skeleton)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{broken} BROKEN" in run.stdout


def test_runtime_may_import_ray_and_the_command_line_reaches_it_through_runtime(skeleton: Path) -> None:
    (skeleton / "rl_motion/runtime/__init__.py").write_text("import ray\n")
    (skeleton / "rl_motion/cli/__init__.py").write_text("import rl_motion.runtime\n")
    run = lint(skeleton)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_package_but_runtime_is_kept_from_ray(root: Path) -> None:
    wanted = {f"rl_motion.{name}" for name in layer_names(root)} - {"rl_motion.runtime"}
    assert set(contract(root, "ray")["source_modules"]) == wanted


@pytest.mark.parametrize("module", ["rl_motion.config", "rl_motion.cli"])
def test_starts_without_torch_and_ray(root: Path, module: str) -> None:
    """`--help`, `config` and a job's mistakes answer at once: nothing heavy is loaded for them."""
    assert not {"torch", "ray"} & modules_after_import(module, root)


def test_the_check_for_loaded_modules_sees_torch(root: Path) -> None:
    assert "torch" in modules_after_import("rl_motion.types", root)
