"""The documents are true where a machine can tell: links resolve, and what the README types exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "clusters/*.md", "docker/*.md") for path in ROOT.glob(pattern)
)
CLI = "import sys; from rl_motion.cli import main; sys.argv[0] = 'rl-motion'; sys.exit(main())"
UNCHECKED = {"cd", "export", "git", "python3", "source"}  # the shell's own and git: true on every machine
ELSEWHERE = {"docker", "kubectl", "scancel"}  # what a cluster has: the files that they name are checked
RAY = {
    ("dashboard",),
    ("down",),
    ("get-auth-token", "--generate"),
    ("rsync-down",),
    ("up",),
    ("job", "submit"),
    ("job", "status"),
    ("job", "logs"),
    ("job", "stop"),
    ("start",),
    ("status",),
    ("stop",),
}

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives a document's headings."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeats = sum(slug == other or re.fullmatch(re.escape(slug) + r"-\d+", other) is not None for other in found)
        found.append(f"{slug}-{repeats}" if repeats else slug)
    return set(found)


def broken_links(document: Path) -> list[str]:
    """Relative links of a document whose file or heading is missing."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", document.read_text(encoding="utf-8")))
    broken = []
    for link in (inline or html for inline, html in LINK.findall(text)):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        missing_heading = (
            fragment and target.suffix == ".md" and target.is_file() and fragment not in anchors(target.read_text())
        )
        if not target.exists() or missing_heading:
            broken.append(link)
    return broken


def commands(text: str) -> list[str]:
    """The commands of a document's ```bash blocks, continuations joined, comments and prompts removed."""
    blocks = "\n".join(body for language, body in FENCE.findall(text) if language == "bash")
    lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [shlex.join(line) for line in words if line]


@cache
def run(*command: str) -> tuple[int, str]:
    """Exit status and output of a command in the checkout, on a wide plain terminal, outside any make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def complaint_rl_motion(words: list[str]) -> str | None:
    """What is wrong with `rl-motion WORDS`: the sub-command, an option, or a job file that does not exist."""
    path: list[str] = []
    status, text = run(sys.executable, "-c", CLI, "--help")
    while status == 0 and "COMMAND [ARGS]" in text and len(path) < len(words) and words[len(path)][0] != "-":
        path.append(words[len(path)])
        status, text = run(sys.executable, "-c", CLI, *path, "--help")
    if status != 0:
        return f"`rl-motion {' '.join(path)} --help` exits with {status}: {text}"
    for word in words[len(path) :]:
        option = word.partition("=")[0]
        if option.startswith("-") and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text):
            return f"`rl-motion {' '.join(path)}` has no option {option}"
        if re.fullmatch(r"jobs/\S+\.ya?ml", word) and not any(path.is_file() for path in ROOT.glob(word)):
            return f"no file {word}"
    return None


def complaint_script(words: list[str]) -> str | None:
    """What is wrong with `python WORDS`: no script of jobs/, or an option that its help does not name."""
    script = words[0] if words else ""
    if not re.fullmatch(r"jobs/[\w/]+\.py", script) or not (ROOT / script).is_file():
        return f"no script {script!r} in jobs/"
    _, text = run(sys.executable, script, "--help")
    unknown = [word for word in words[1:] if word.startswith("-") and word.partition("=")[0] not in text]
    return f"`python {script}` has no option {unknown[0]}" if unknown else None


def complaint(command: str) -> str | None:
    """What is wrong with a command of the README, or None."""
    words = shlex.split(command)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, arguments = (Path(words[0]).name, words[1:]) if words else ("", [])
    gone = [word for word in arguments if re.match(r"(clusters|docker)/", word) and not (ROOT / word).is_file()]
    if gone:
        return f"no file {gone[0]}"
    if program == "sbatch":
        script = next((place for place, word in enumerate(arguments) if word.endswith(".sbatch")), None)
        return "no script" if script is None else complaint_rl_motion(arguments[script + 1 :])
    if program == "rl-motion":
        return complaint_rl_motion(arguments)
    if program == "make":
        status, text = run("make", "--dry-run", *arguments)
        return None if status == 0 else text
    if program == "ray":
        return None if any(tuple(arguments[: len(known)]) == known for known in RAY) else "not a command of ray"
    if program == "python":
        return complaint_script(arguments)
    known = UNCHECKED | ELSEWHERE
    return None if program in known else f"want make, rl-motion, ray, python, sbatch or one of {sorted(known)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    assert broken_links(document) == []


def test_the_documents_are_found() -> None:
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"} <= set(DOCUMENTS)


def test_the_readmes_commands_exist() -> None:
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"make demo", "make test"} <= set(found)
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_operators_commands_exist() -> None:
    found = commands((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    assert {Path(shlex.split(command)[0]).name for command in found} >= {"rl-motion", "ray", "sbatch", "kubectl"}
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_commands_of_pools_exist() -> None:
    found = commands((ROOT / "docs" / "prompts.md").read_text(encoding="utf-8"))
    assert any("prompts build" in command for command in found)
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_commands_of_data_sets_exist() -> None:
    found = commands((ROOT / "docs" / "data.md").read_text(encoding="utf-8"))
    assert any("data import" in command for command in found)
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_commands_of_reports_exist() -> None:
    found = commands((ROOT / "docs" / "report.md").read_text(encoding="utf-8"))
    assert any("--ab-answers" in command for command in found)
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_commands_of_checkpoints_exist() -> None:
    found = commands((ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8"))
    assert sum("model convert" in command for command in found) >= 4
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_the_commands_of_pretraining_exist() -> None:
    found = commands((ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8"))
    assert any("pretrain" in command for command in found)
    assert {command: why for command in found if (why := complaint(command))} == {}


def test_missing_links_are_seen(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# One *two*\n[a](gone.md) [b](page.md#one-two) [c](#nowhere) ![d](gone.png) "
        '[e](https://example.org) `[f](code.md)`\n<img src="gone.gif">\n```text\n[g](fenced.md)\n```\n'
    )
    assert broken_links(document) == ["gone.md", "#nowhere", "gone.png", "gone.gif"]


def test_commands_are_read_as_a_shell_reads_them() -> None:
    shell = "# a comment\n$ make demo  # ten minutes\nA=1 rl-motion train \\\n    JOB\n"
    text = f"```bash\n{shell}```\n```text\nno\n```\n"
    assert commands(text) == ["make demo", "A=1 rl-motion train JOB"]


@pytest.mark.parametrize(
    "command",
    [
        "make no-such-target",
        "rl-motion no-such-command",
        "rl-motion demo --no-such-option",
        "rl-motion train jobs/no_such_job.yaml",
        "ray no-such-command",
        "python jobs/no_such_script.py",
        "python jobs/experiments/ablations.py --no-such-option",
        "python -c 1",
        "no-such-program",
        "kubectl apply -f clusters/kuberay/no-such-file.yaml",
        "docker build -f docker/Dockerfile.no-such .",
        "sbatch clusters/slurm/rl-motion.sbatch no-such-command",
        "sbatch demo",
        "rl-motion jobs no-such-command",
    ],
)
def test_commands_that_do_not_exist_are_seen(command: str) -> None:
    assert complaint(command) is not None
