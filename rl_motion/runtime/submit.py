"""What goes to a cluster when a job is submitted: the resolved job, the files that it names, and nothing else.

Relative paths of a job are files here, which travel; absolute ones are those of the cluster. The command runs in a
folder of Ray's that is cleared after it, so that runs go to a place that has to be named.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rl_motion.config import Job, UserError
from rl_motion.config.load import dump_job, load_job
from rl_motion.data.names import SPLIT
from rl_motion.rewards.plugins import is_plugin
from rl_motion.runtime import frontend, store_uri
from rl_motion.runtime.job_server import Submission
from rl_motion.runtime.prompt_sources import file_of
from rl_motion.tracking.files import read_whole
from rl_motion.tracking.mlflow_tracker import check_uri

JOB_FILE = "rl-motion-job.yaml"
_MAX_BYTES = 100_000_000
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_log = logging.getLogger(__name__)


def to_train(
    source: str, out: str, overrides: Sequence[str] = (), seed: int | None = None, command: str = "train"
) -> Submission:
    """A new run of a job, or another command that takes a job and --out.

    Args:
        source: YAML file or packaged name, as `rl-motion train` takes it.
        out: the run is OUT/<job name>, on the cluster's disks.
        overrides: `a.b=c` strings.
        seed: replaces `train.seed`.
        command: of `rl-motion`; the name of a submission that trains is the job's.

    Raises:
        UserError: the job is wrong, as far as this machine can tell, or `out` is no place on a cluster.
    """
    job = load_job(source, overrides, seed)
    where = _there("--out", out)
    _check(job)
    files = files_of(job)
    if JOB_FILE in files:
        raise UserError(f"got a file named {JOB_FILE}, as the job is where it runs; want another name; rename it")
    name = job.name if command == "train" else command
    return Submission(
        name, f"rl-motion {command} {JOB_FILE} --out {where}", {JOB_FILE: dump_job(job).encode(), **files}
    )


def to_resume(run: str, overrides: Sequence[str] = (), source: str | None = None) -> Submission:
    """Go on with a run that lies on the cluster's disks.

    Args:
        run: its folder there.
        overrides: `a.b=c` strings, for `rl-motion resume`.
        source: the job that the run was started with, where it names files: they are sent again.

    Raises:
        UserError: `run` is no place on a cluster, or the job is wrong.
    """
    words = [word for override in overrides for word in ("--set", shlex.quote(override))]
    where = _there("--resume", run)
    for override in overrides:
        key, _, value = override.partition("=")
        if key.strip() == "tracking.mlflow_uri":
            check_uri(value)
        if key.strip() == "runtime.commits_uri":
            store_uri.check_uri(None if value in ("", "null", "~") else value)
    files = files_of(load_job(source)) if source is not None else {}
    name = re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9]+", "", PurePosixPath(run).name) or "resume"
    return Submission(name, " ".join(["rl-motion resume", where, *words]), files)


def to_look(command: str, run: str, words: Sequence[str]) -> Submission:
    """A command of `rl-motion` on a run that lies on the cluster's disks.

    Args:
        command: such as status.
        run: its folder there.
        words: the command's options; nothing in them needs quoting.

    Raises:
        UserError: `run` is no place on a cluster.
    """
    return Submission(command, " ".join(["rl-motion", command, _there("RUN", run), *words]))


def files_of(job: Job) -> dict[str, bytes]:
    """The files that a job names by relative path: prompts (of a pool prompts.parquet alone), plugins, calibration.

    Raises:
        UserError: one cannot be read or lies elsewhere, or a model, or the data to evaluate on, is a directory here,
            which is not sent.
    """
    models = {"model.name": job.model.name, **{f"rewards: {r.name}.model": r.model for r in job.rewards if r.model}}
    if job.evaluation.evaluator is not None:
        models["evaluation.evaluator"] = job.evaluation.evaluator
    for key, name in models.items():
        if not Path(name).is_absolute() and (Path(name) / "config.json").is_file():
            raise UserError(
                f"{key}: got {name!r}, a directory of this machine; want a packaged name, or a directory that all "
                "nodes see, as checkpoints are not sent; copy it there and give its absolute path"
            )
    if job.evaluation.data is not None and not Path(job.evaluation.data).is_absolute():
        raise UserError(
            f"evaluation.data: got {job.evaluation.data[:200]!r}, a data set of this machine; want a directory that "
            "all nodes see, as motion is not sent; copy it there and give its absolute path"
        )
    names = [file_of(name) for name in job.prompt_sources if not SPLIT.fullmatch(name)]
    names += [reward.name.partition(":")[0] for reward in job.rewards if is_plugin(reward.name)]
    names += [job.calibration] if job.calibration is not None else []
    return {str(PurePosixPath(name)): _read(name) for name in names if not Path(name).is_absolute()}


def environment(names: Iterable[str]) -> dict[str, str]:
    """The values of these variables here, for the job there.

    Raises:
        UserError: a name is none, or is not set; no value is repeated.
    """
    found = {}
    for name in names:
        if not _ENVIRONMENT.fullmatch(name):
            shown = name.partition("=")[0] + "=..." if "=" in name else repr(name[:80])
            raise UserError(
                f"got --env {shown}; want the name of a variable alone, as its value is taken from the environment and "
                "never stands on a command line; export it, then give --env NAME"
            )
        if name not in os.environ:
            raise UserError(f"got --env {name}, which is not set here; want a value to send; export it first")
        found[name] = os.environ[name]
    return found


def custom_resources(given: Iterable[str]) -> dict[str, float]:
    """`NAME=AMOUNT` strings; raises UserError."""
    found = {}
    for text in given:
        name, _, amount = text.partition("=")
        if not name or not re.fullmatch(r"\d{1,6}(\.\d{1,4})?", amount) or float(amount) == 0:
            raise UserError(
                f"got --entrypoint-resource {text[:80]!r}; want NAME=AMOUNT with a positive amount; write it like "
                "driver=0.001"
            )
        found[name] = float(amount)
    return found


def _check(job: Job) -> None:
    """As `rl-motion train` would, as long as all that the job names is here too."""
    named = [job.model.name, *job.prompt_sources]
    named += [one for one in (job.calibration, job.evaluation.data, job.evaluation.evaluator) if one is not None]
    away = [name for name in named if Path(name).is_absolute() and not Path(name).exists()]
    if not away:
        frontend.MEANS.workshop.check(job)
        return
    check_uri(job.tracking.mlflow_uri)
    store_uri.check_uri(job.runtime.commits_uri)
    _log.warning("not on this machine: %s; the job is checked where it runs", ", ".join(away))


def _there(option: str, path: str) -> str:
    """A place on the cluster, as its shell reads it: absolute, or in the home of whom Ray runs as there."""
    if path.isprintable() and path.startswith(("/", "~/")):
        return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)
    raise UserError(
        f"got {option} {path[:200]!r}; want a place on the cluster that outlives the job, absolute or in ~/; "
        f"write it like {option} '~/runs'"
    )


def _read(name: str) -> bytes:
    if ".." in PurePosixPath(name).parts:
        raise UserError(
            f"got {name[:200]!r}, which leads out of the working directory; want files in it, as they keep their names "
            "where the job runs; copy it there"
        )
    try:
        return read_whole(Path(name), _MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"got the file {name[:200]!r}, which cannot be read ({reason}); want what the job names; check the path"
        ) from None
