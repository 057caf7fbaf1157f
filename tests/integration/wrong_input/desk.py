"""What every case of wrong input shares: a working directory that is right but for one thing, and the one checker.

A case is a mishap (what is done to the directory or the process), a command line and the words that its message must
have. `refused` holds all of them to the same standard; test_checker.py shows that it can fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from safetensors.torch import load, save
from torch import Tensor

from rl_motion.config.load import dump_job
from tests.fakes import real_job

SECRET = "hunter2-correct-horse"
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN")
LONGEST = 4000
"""Characters of a message: nobody reads more, and a wrong file must not be recited."""
INSTRUCTION = re.compile(
    r";\s*(add|build|change|check|choose|close|copy|correct|did you mean|drop|export|fix|free|give|install|leave"
    r"|load|look|lower|make|measure|mend|move|name|put|raise|remove|rename|save|see|set|shorten|split|start|unset|use|wait|write)\b"
)
"""How the part of a message begins that says what to do."""

PLUGIN = """
import torch
from rl_motion.types import MotionForm, Normalisation, Representation

class Mine:
    accepts = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
    differentiable = True
    def __call__(self, motions, prompts, noise_level_B=None):
        return motions.features_BFD.mean(dim=(1, 2))
"""


class Ended(Protocol):
    """What `typer.testing.Result` offers, and a finished subprocess can be made to."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Finished:
    """The same of a subprocess."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class Desk:
    """Where a case happens: the working directory, and the means to spoil it or the process."""

    work: Path
    monkeypatch: pytest.MonkeyPatch

    def path(self, name: str) -> Path:
        return self.work / name

    def write(self, name: str, content: str | bytes) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    def cut(self, name: str, keep: int | float) -> None:
        """Cut a file short: to that many bytes, or to that share of it."""
        content = self.path(name).read_bytes()
        self.write(name, content[: int(keep * len(content)) if isinstance(keep, float) else keep])

    def json(self, name: str, **changes: Any) -> None:
        """Change top-level entries of a JSON file; None removes one."""
        tree = json.loads(self.path(name).read_text()) | changes
        self.write(name, json.dumps({key: value for key, value in tree.items() if value is not None}))

    def tensors(self, name: str, change: Callable[[dict[str, Tensor]], object]) -> None:
        """Change the tensors of a safetensors file in place."""
        stored = load(self.path(name).read_bytes())
        change(stored)
        self.write(name, save(stored))

    def plugin(self, old: str = "", new: str = "") -> None:
        """The right plugin with a part replaced."""
        assert old in PLUGIN
        self.write("mine.py", PLUGIN.replace(old, new) if old else new or PLUGIN)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.path(name)) if self.path(name).is_dir() else self.path(name).unlink()


Mishap = Callable[[Desk], object]


@dataclass(frozen=True)
class Case:
    """One way to go wrong. `says`: words that the message must have, the offending thing among them."""

    id: str
    command: Sequence[str]
    says: Sequence[str]
    mishap: Mishap | None = None
    code: int = 2

    def __str__(self) -> str:
        return self.id


def table(*cases: Case) -> pytest.MarkDecorator:
    """All cases as parameters; ids are unique."""
    names = [case.id for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return pytest.mark.parametrize("case", cases, ids=names)


def train(*sets: str, job: str = "job.yaml") -> list[str]:
    """Train one iteration at most, should the mistake go unnoticed."""
    every = [word for text in ("train.iterations=1", *sets) for word in ("--set", text)]
    return ["train", job, "--out", "runs", *every]


def sample(*more: str) -> list[str]:
    return ["sample", "--model", "zoo/mdm", "--prompt", "a person", "--length", "12", "--out", "page.html", *more]


def lay(work: Path, model: Path) -> None:
    """Fill a working directory with what a right job needs."""
    shutil.copytree(model.parent, work / "zoo")
    job = real_job(Path("zoo/mdm"), threads=1).model_dump(mode="json")
    job |= {"name": "right", "rewards": [{"name": "jerk"}], "prompts": {"sources": {"prompts.txt": 1.0}}}
    from rl_motion.config import Job

    (work / "job.yaml").write_text(dump_job(Job.model_validate(job)))
    (work / "prompts.txt").write_text("".join(f"a person does thing number {n}#12\n" for n in range(6)))
    (work / "mine.py").write_text(PLUGIN)


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder with what it is and the hash of what it holds; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def refused(
    ended: Ended, says: Sequence[str], before: Mapping[str, str], after: Mapping[str, str], code: int = 2
) -> None:
    """The standard: the exit code, a message of got, want and do that names the thing, nothing written, no secret."""
    everything = ended.stdout + ended.stderr
    assert ended.exit_code == code, f"exit code {ended.exit_code}: {everything[-3000:]}"
    assert "Traceback" not in everything, everything[-3000:]
    assert SECRET not in everything, "a secret of the environment was repeated"
    message = ended.stderr.partition("error: ")[2]
    assert message, f"no `error: ` on stderr: {everything[-3000:]}"
    assert len(message) <= LONGEST, f"{len(message)} characters: {message[:300]}"
    assert all(line.isprintable() for line in everything.splitlines()), f"control characters: {everything!r}"
    for word in ("got", "want"):
        assert re.search(rf"\b{word}\b", message), f"no {word!r} in {message!r}"
    assert INSTRUCTION.search(message), f"nothing to do in {message!r}"
    for word in says:
        assert word in message, f"no {word!r} in {message!r}"
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, f"written or removed: {sorted(changed)[:10]}"
