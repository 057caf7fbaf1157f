"""Wrong input: files that are no job, or try to be more than one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.integration.wrong_input.desk import Case, Desk, table, train


def file(case: str, content: str | bytes, *says: str) -> Case:
    """A job file of that content; `rl-motion config` reads it."""
    return Case(case, ["config", "job.yaml"], ["job.yaml", *says], lambda desk: desk.write("job.yaml", content))


def deep(levels: int) -> str:
    return f"name: a\ntrain: {'[' * levels}{']' * levels}\n"


BOMB = "name: a\nx0: &x0 [a, a, a, a, a, a, a, a, a]\n" + "".join(
    f"x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 9)}]\n" for n in range(12)
)
LONG_MERGE = "name: a\nbase: &base {a: 1}\n" + "".join(f"k{n}: {{<<: *base}}\n" for n in range(40))


def as_folder(desk: Desk) -> None:
    desk.remove("job.yaml")
    desk.path("job.yaml").mkdir()


@table(
    file("empty", "", "empty file"),
    file("only comments", "# nothing\n\n", "empty file"),
    file("only spaces", "   \n \n", "empty file"),
    file("a list", "- name: a\n- b\n", "list"),
    file("a word", "demo", "str"),
    file("a number", "7", "int"),
    file("JSON cut short", '{"name": "a", "train": {', "not YAML"),
    file("a key twice", "name: a\nname: b\n", "'name'", "twice", "line 2"),
    file("a key twice, deep down", "name: a\ntrain: {seed: 1, seed: 2}\n", "'seed'", "twice"),
    file("two documents", "name: a\n---\nname: b\n", "not YAML"),
    file("a call", "name: !!python/object/apply:os.system ['touch owned']\n", "python/object", "never built"),
    file("an object", "name: !!python/object:pathlib.Path {}\n", "python/object:pathlib.Path"),
    file("a module", "name: !!python/module:os ''\n", "python/module"),
    file("a name of Python", "name: !!python/name:os.system ''\n", "python/name"),
    file("an unknown tag", "name: !include other.yaml\n", "!include"),
    file("a wrong !!bool", "name: a\nx: !!bool perhaps\n", "not YAML"),
    file("a wrong !!int", "name: a\nx: !!int many\n", "not YAML"),
    file("a wrong !!timestamp", "name: a\nx: !!timestamp soon\n", "not YAML"),
    file("an impossible day", "name: 2026-13-45\n", "not YAML"),
    file("a number of 5000 digits", f"name: a\ntrain: {{seed: {'9' * 5000}}}\n", "not YAML"),
    file("a day as a name", "name: 2026-01-01\n", "name", "datetime.date"),
    file("tabs", "name: a\ntrain:\n\tseed: 1\n", "not YAML"),
    file("unclosed", "name: [a\n", "not YAML"),
    file("an alias to nothing", "name: *nobody\n", "nobody"),
    file("aliases that grow", BOMB, "10000 values"),
    file("a value within itself", "name: a\ntrain: &t [*t]\n", "within itself"),
    file("a mapping as a key", "name: a\n? {b: 1}\n: 2\n", "unhashable"),
    file("merged keys", LONG_MERGE, "merge", "line 3"),
    file("very deep", deep(600), "not YAML"),
    file("deep", deep(200), "train"),
    file("a thousand unknown keys", "name: a\n" + "".join(f"k{n}: 1\n" for n in range(1000)), "990 more mistakes"),
    file("binary", bytes(range(256)) * 8, "UTF-8"),
    file("a NUL", "name: a\0b\n", "not YAML"),
    file("an escape", "name: \x1b[31mred\n", "not YAML"),
    file("Latin-1", "name: caf\xe9\n".encode("latin-1"), "UTF-8"),
    file("UTF-16", "name: a\n".encode("utf-16"), "UTF-8"),
    file("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), "UTF-8"),
    file("too large", b"# " + b"x" * 1_100_000, "1000000 bytes"),
    file("no name", "train: {seed: 1}\n", "no 'name'", "add `name: ...`"),
    Case("missing", train(job="nowhere.yaml"), ["'nowhere.yaml'", "demo"]),
    Case("a packaged name mistyped", train(job="dmeo"), ["'dmeo'", "did you mean 'demo'"]),
    Case("a folder", train(), ["folder job.yaml"], as_folder),
    Case("a dangling link", train(job="link.yaml"), ["link.yaml"], lambda d: Path("link.yaml").symlink_to("gone")),
    Case("a loop of links", train(job="link.yaml"), ["link.yaml"], lambda d: Path("link.yaml").symlink_to("link.yaml")),
    Case("a name that is too long", train(job="j" * 5000), ["no file"]),
    Case("an empty name", train(job=""), ["got"]),
    Case("a file that cannot be read", train(job="/proc/self/mem"), ["/proc/self/mem", "Input/output error"]),
    Case("a device", train(job="/dev/zero"), ["/dev/zero"]),
)
def test_job_files(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)
