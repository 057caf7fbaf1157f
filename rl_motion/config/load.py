"""From a YAML job file and `--set a.b=c` to a validated `Job`; every mistake becomes a `UserError`."""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rl_motion.config.errors import UserError, nearest
from rl_motion.config.pretrain import PretrainJob
from rl_motion.config.schema import Job

_MAX_BYTES = 1_000_000
_MAX_NODES = 10_000
_MAX_LINES = 10
_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, OverflowError)
"""What PyYAML raises, its own or whatever int(), a dict or a regular expression raised in it (`!!bool perhaps`)."""

_URI = re.compile(r"@|://|tracking\.mlflow_uri=")
_J = TypeVar("_J", Job, PretrainJob)


class _JobLoader(yaml.SafeLoader):
    """yaml.SafeLoader (no Python objects) that also refuses a key written twice; YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, or a ConstructorError that names the repeated key."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_job(source: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Job:
    """The job in a YAML file, or the packaged job of that name, with overrides applied in order.

    Args:
        source: path of a YAML file, or the name of a packaged job (see `packaged_jobs`).
        overrides: `a.b=c` strings; values are YAML, list items are addressed by number
            (`rewards.0.weight=2`).
        seed: replaces `train.seed`, last of all.

    Raises:
        UserError: the file is missing, is not YAML, builds objects, or does not fit the schema.
    """
    return _load(Job, find_job(source), overrides, seed)


def load_pretrain_job(source: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> PretrainJob:
    """The job of `rl-motion pretrain` in a YAML file, as `load_job` reads its own; none is packaged.

    Raises:
        UserError: the file is missing, is not YAML, builds objects, or does not fit the schema.
    """
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"got JOB={_short(str(source))}, which is no file; want a YAML file that says what to pretrain; check the "
            "path (jobs/real has examples)"
        )
    return _load(PretrainJob, path, overrides, seed)


def _load(schema: type[_J], path: Path, overrides: Sequence[str], seed: int | None) -> _J:
    tree = _read_yaml(path)
    sets = [*overrides, *([f"train.seed={seed}"] if seed is not None else [])]
    for override in sets:
        _apply(tree, override, schema)
    return _validate(schema, tree, str(path), sets)


def change_job(job: Job, overrides: Sequence[str]) -> Job:
    """The job with overrides applied in order, as in `load_job`; raises UserError."""
    tree = job.model_dump(mode="json")
    for override in overrides:
        _apply(tree, override, Job)
    return _validate(Job, tree, f"job {job.name}", overrides)


def dump_job(job: Job | PretrainJob) -> str:
    """The resolved job as YAML, every default written out; what loads its kind reads it back to an equal job."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def packaged_jobs() -> dict[str, Path]:
    """Jobs that ship inside the package, by name."""
    folder = Path(str(resources.files("rl_motion"))) / "zoo" / "jobs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_job(source: str | Path) -> Path:
    """The file meant by a path or by a packaged job's name; raises UserError."""
    path = Path(source)
    packaged = packaged_jobs()
    try:
        if path.is_file():
            return path
        folder = path.is_dir()
    except OSError:  # a name that no file can have
        folder = False
    if folder:
        raise UserError(f"got the folder {path}; want a job file; name a .yaml file in it")
    if str(source) in packaged:
        return packaged[str(source)]
    raise UserError(
        f"got JOB={_short(str(source))}, which is no file; want a YAML file or one of {sorted(packaged)}; "
        f"{nearest(source, packaged, 'check the path')}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    want = "want a mapping of job keys such as `name: my-run`"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"{path}: got more than {_MAX_BYTES} bytes; want a job file; check the path")
        tree = _parse(content.decode("utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: got {error.strerror!r}; want a file that can be read; check its permissions"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: got bytes that are not UTF-8 (at {error.start}); want text; save it as UTF-8"
        ) from None
    except yaml.constructor.ConstructorError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(
            f"{path}: got YAML{where} that is refused ({error.problem}); want plain values, as objects are never built "
            "and keys are unique; change it"
        ) from None
    except _NOT_YAML as error:
        raise UserError(f"{path}: got text that is not YAML ({_one_line(error)}); {want}; correct that line") from None
    if tree is None:
        raise UserError(f"{path}: got an empty file; {want}; write them")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: got a {type(tree).__name__}; {want}; write them")
    return tree


def _parse(text: str) -> Any:
    """The value in YAML text.

    Raises:
        _NOT_YAML: it is not, or its aliases stand for more than any job has to say.
    """
    loader = _JobLoader(text)
    try:
        node = loader.get_single_node()
        if _nodes(node, {}) > _MAX_NODES:
            raise yaml.YAMLError(f"more than {_MAX_NODES} values, aliases written out, or one within itself")
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _nodes(node: Any, known: dict[int, float]) -> float:
    """Values below and with a node, aliases written out; infinite where it contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_nodes(one, known) for one in flat)
    return known[id(node)]


def _apply(tree: dict[str, Any], override: str, schema: type[BaseModel]) -> None:
    """Set one `a.b=c` in place; missing sections are made, so that validation can name the nearest key."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"got --set {_short(override)}; want a.b=c; write it like --set train.iterations=20")
    try:
        value = _parse(text)
    except _NOT_YAML as error:
        raise UserError(
            f"got --set {_short(override)}; want a YAML value after `=`; correct it ({_one_line(error)})"
        ) from None
    node: Any = tree
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if not isinstance(node, (list, dict)):
            raise UserError(
                f"got --set {_short(override)}; want a key, but {where!r} is the value {_short(node)}; set {where}=..."
            )
        slot: Any = _index(node, part, where, override) if isinstance(node, list) else part
        if depth == len(parts) - 1:
            node[slot] = value
        else:
            if isinstance(node, dict) and node.get(slot) is None:
                node[slot] = _default_items(schema, parts[: depth + 1])
            node = node[slot]


def _default_items(schema: type[BaseModel], where: Sequence[str]) -> list[Any] | dict[str, Any]:
    """What a missing section starts from: nothing, or the default's items where it is a list, which have numbers."""
    value: Any = schema.model_construct()
    for part in where:
        known = isinstance(value, BaseModel) and part in type(value).model_fields
        value = getattr(value, part, None) if known else None
    if not isinstance(value, tuple):
        return {}
    return [item.model_dump() if isinstance(item, BaseModel) else item for item in value]


def _index(node: list[Any], part: str, where: str, override: str) -> int:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
        raise UserError(
            f"got --set {_short(override)}; want a number below {len(node)} after {where!r} (a list); correct it or "
            "set the whole list"
        )
    return int(part)


def _validate(schema: type[_J], tree: Mapping[str, Any], source: str, sets: Sequence[str]) -> _J:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source}: {_teach(schema, dict(item), sets)}" for item in error.errors()]
        more = len(lines) - _MAX_LINES
        rest = [f"{source}: got {more} more mistakes; correct these first"] if more > 0 else []
        raise UserError("\n".join(lines[:_MAX_LINES] + rest)) from None


def _teach(schema: type[BaseModel], item: dict[str, Any], sets: Sequence[str]) -> str:
    """One pydantic error as got / want / do."""
    loc: tuple[str | int, ...] = item["loc"]
    path = ".".join(map(str, loc))
    came = [text for text in sets if text.partition("=")[0].strip() == path]
    origin = f" (from --set {_plain(came[-1])})" if came else ""
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.replace("String should match pattern", "text that matches")
    match item["type"]:
        case "extra_forbidden" | "invalid_key":
            return f"got the unknown key {_short(path)}{origin}; {_nearest(schema, loc)}"
        case "missing":
            return f"got no {path!r}; want one; add `{path}: ...`"
        case "value_error":
            return f"{path}: {message}{origin}" if path else message
        case kind:
            names = re.findall(r"'([^']*)'", message) if kind == "literal_error" else []
            do = nearest(item["input"], names, "change it")
            want = message[:1].lower() + message[1:]
            return f"{_plain(path)}: got {_short(item['input'])}{origin}; want {want}; {do}"


def _nearest(schema: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    siblings = _keys_at(schema, loc[:-1])
    name, prefix = str(loc[-1]), ".".join(map(str, loc[:-1]))
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.5)
    if near:
        return f"want one of {siblings}; did you mean {'.'.join(filter(None, [prefix, near[0]]))!r}?"
    leaves = {leaf.rsplit(".", 1)[-1]: leaf for leaf in _leaves(schema)}
    elsewhere = difflib.get_close_matches(name, leaves, n=1, cutoff=0.7)
    if elsewhere:
        return f"want one of {siblings}; did you mean {leaves[elsewhere[0]]!r}?"
    return f"want one of {siblings}; remove it"


def _keys_at(schema: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] | None = schema
    for part in loc:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _section(model.model_fields[part].annotation)
    return sorted(model.model_fields) if model is not None else []


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield prefix + name
        elif isinstance(field.annotation, type):
            yield from _leaves(section, f"{prefix}{name}.")


def _section(annotation: object) -> type[BaseModel] | None:
    """The section an annotation holds, directly or as the items of a tuple or an alternative of a union."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for arg in typing.get_args(annotation) if (found := _section(arg))), None)


def _short(value: object) -> str:
    """At most 80 characters; of what looks like a URI, which may hold a password, only the key before it."""
    text = repr(value)
    if _URI.search(text):
        key, equals, _ = text.partition("=")
        return f"{key}=...'" if equals and not _URI.search(key) else "'...'"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(text: str) -> str:
    """As it was typed, where that is short and printable."""
    return text if text.isprintable() and len(text) <= 80 and not _URI.search(text) else _short(text)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = "not repeated, as it may hold a password" if _URI.search(text) else text[:200]
    return text if text.isprintable() else repr(text)
