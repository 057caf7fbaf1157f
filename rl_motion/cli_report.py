"""`rl-motion report`: what runs achieved, on a page; and the blind comparison of motions by people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rl_motion.cli_guard import guarded, printable
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.evaluation.ab import Candidate
    from rl_motion.evaluation.summary import FinishedRun
    from rl_motion.runtime.commit import Manifest

_PAIRS = 20


def report(  # noqa: PLR0913, PLR0917 - options
    what: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; with --ab-answers: files of answers.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; default: beside the first run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    ab: Annotated[
        bool, typer.Option("--ab", help="Write a page on which people compare base and tuned without knowing which.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="RUN2", help="With --ab: compare with this run, not the base.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=2, max=1000, help="With --ab: prompts on the page.")] = _PAIRS,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="With --ab: of the draw; default: nobody knows it.")
    ] = None,
    ab_answers: Annotated[
        bool, typer.Option("--ab-answers", help="Count the answers that people saved from such a page.")
    ] = False,
    ab_key: Annotated[
        Path | None, typer.Option("--ab-key", metavar="KEY", help="With --ab-answers: the page's file *.key.json.")
    ] = None,
) -> None:
    """Before and after with intervals, sentinels, curves, the best and the worst prompts as moving skeletons.

    Runs of one job that differ in their seed make one row, with an interval over runs. Writes a page that works
    offline and a Markdown table, and logs both to the runs' MLflow.
    """
    with guarded():
        _refuse_mixed(ab, ab_answers, ab_key, against, seed, pairs, out, as_json)
        _refuse_files(out)
        if ab_answers:
            assert ab_key is not None
            _count(what, ab_key, as_json)
        elif ab:
            _write_comparison(what, against, pairs, seed, out)
        else:
            _write_report(what, out, as_json)


def _refuse_mixed(  # noqa: PLR0913, PLR0917 - as many options
    ab: bool,
    ab_answers: bool,
    ab_key: Path | None,
    against: Path | None,
    seed: int | None,
    pairs: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Options that say nothing where they are given."""
    idle = {
        "--ab-key": ab_key is not None and not ab_answers,
        "--against": against is not None and not ab,
        "--seed": seed is not None and not ab,
        "--pairs": pairs != _PAIRS and not ab,
        "--out": out is not None and ab_answers,
        "--json": as_json and ab,
        "--ab": ab and ab_answers,
    }
    found = next((option for option, given in idle.items() if given), None)
    if found is not None:
        raise UserError(
            f"got {found} where it changes nothing; want --against, --pairs and --seed with --ab alone, --ab-key with "
            "--ab-answers alone, which writes no file; drop it"
        )
    if ab_answers and ab_key is None:
        raise UserError("got --ab-answers without --ab-key; want the file *.key.json beside the page; add it")


def _refuse_files(out: Path | None) -> None:
    """Where a folder shall be."""
    taken = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None) if out else None
    if taken is not None:
        raise UserError(f"got --out {out}, where {taken} is a file; want a folder; choose another")


def _write_report(folders: Sequence[Path], out: Path | None, as_json: bool) -> None:
    import json

    from rl_motion.evaluation.kept import read_kept
    from rl_motion.evaluation.runs_page import written
    from rl_motion.evaluation.summary import read_runs
    from rl_motion.tracking.files import write_together

    runs = read_runs(folders)
    manifests = _manifests(runs)
    kept = {run.name: found for run in runs if (found := read_kept(run.folder)) is not None}
    lacks = [
        f"{run.name} kept no motions: `rl-motion resume {run.folder}` evaluates it again, unless an earlier release "
        "trained it, which cannot be resumed: train it anew"
        for run in runs
        if run.name not in kept
    ]
    name = f"{runs[0].folder.resolve().name}-report" if len(runs) == 1 else "report"
    where = (out or runs[0].folder.resolve().parent) / name
    rests_on = {
        run: {**manifest.weights_sha256, "prompts": manifest.pool_sha256} for run, manifest in manifests.items()
    }
    made = written(runs, rests_on, kept, lacks)
    page, text = where.with_name(f"{name}.html"), where.with_name(f"{name}.md")
    whole = {page: made.page.encode(), text: made.table.encode()}
    write_together(whole)
    logged = _log_to_mlflow(runs, manifests, [page, text])
    if as_json:
        files = {"page": str(page), "table": str(text)}
        typer.echo(json.dumps({**made.figures, "files": files, "lacks": lacks, "mlflow": logged}, allow_nan=False))
        return
    _say(*made.lead.splitlines(), *lacks, f"page:   {page}", f"table:  {text}")
    if logged:
        _say(f"MLflow: {', '.join(logged)}")


def _manifests(runs: Sequence[FinishedRun]) -> dict[str, Manifest]:
    """What the newest commit of every run says of itself, by the run's name; of runs that have one."""
    from rl_motion.runtime.commit import Commits

    commits = {run.name: Commits(run.folder / "commits", run.job.runtime.keep_commits).newest() for run in runs}
    return {name: commit.manifest for name, commit in commits.items() if commit is not None}


def _log_to_mlflow(runs: Sequence[FinishedRun], manifests: Mapping[str, Manifest], files: Sequence[Path]) -> list[str]:
    """Names of the runs whose MLflow took the files; what is away, or holds no such run, is no reason to fail."""
    from rl_motion.tracking.mlflow_files import add_files

    logged = []
    for run in runs:
        manifest, uri = manifests.get(run.name), run.job.tracking.mlflow_uri
        if manifest is None or uri is None:
            continue
        whole = uri.replace("{out}", str(run.folder.resolve().parent))
        if add_files(whole, run.job.tracking.experiment, manifest.run_id, files):
            logged.append(run.name)
    return logged


def _write_comparison(
    folders: Sequence[Path], against: Path | None, pairs: int, seed: int | None, out: Path | None
) -> None:
    import secrets

    from rl_motion.evaluation.ab import Key, make_trials, page_id
    from rl_motion.evaluation.ab_files import write_comparison
    from rl_motion.evaluation.ab_page import ab_page
    from rl_motion.evaluation.evaluate import BASE, TUNED

    if len(folders) != 1:
        raise UserError(f"got {len(folders)} runs to compare; want one, and another with --against; choose it")
    folder, other = folders[0], against or folders[0]
    if against is not None and against.resolve() == folder.resolve():
        raise UserError(f"got {folder} against itself; want another run; drop --against to compare it with its base")
    seed = secrets.randbits(63) if seed is None else seed
    first = (other, BASE if against is None else TUNED)
    trials, of_key = make_trials(_candidates(first, (folder, TUNED)), pairs, seed)
    key = Key(
        page=page_id(trials),
        first=f"{first[1]} of {other.resolve().name}",
        second=f"{TUNED} of {folder.resolve().name}",
        seed=seed,
        pairs=of_key,
    )
    name = f"{folder.resolve().name}-ab"
    page, of_page = write_comparison(out or folder.resolve().parent, name, ab_page(trials), key)
    _say(
        f"page: {page} ({pairs} pairs, and one of them again; send it to people)",
        f"key:  {of_page} (keep it: it says which motion is which)",
        f"then: rl-motion report --ab-answers FILE... --ab-key {of_page}",
    )


def _candidates(first: tuple[Path, str], second: tuple[Path, str]) -> list[Candidate]:
    """Held-out prompts that both runs have motions of."""
    from rl_motion.evaluation.ab import Candidate
    from rl_motion.evaluation.kept import read_kept
    from rl_motion.evaluation.runs_page import HELD_OUT
    from rl_motion.evaluation.summary import read_runs

    found = []
    for folder, arm in (first, second):
        (run,) = read_runs([folder])
        kept = read_kept(run.folder)
        if kept is None:
            raise UserError(
                f"{folder}: got no motions; want those that an evaluation keeps; make them with `rl-motion resume "
                f"{folder}`, which evaluates the run again, or train it anew where an earlier release did"
            )
        if HELD_OUT not in kept.fps:
            raise UserError(
                f"{folder}: got motions of no held-out prompt; want some; evaluate the run again with "
                f"`rl-motion resume {folder}`"
            )
        texts = {row.prompt_id: row.text for row in kept.rows if row.split == HELD_OUT}
        motions = {name: kept.joints[HELD_OUT, arm, name] for name in texts if (HELD_OUT, arm, name) in kept.joints}
        found.append((texts, motions, kept.fps[HELD_OUT]))
    (texts, one, fps), (_, two, other_fps) = found
    if fps != other_fps:
        raise UserError(f"got motions at {fps:g} and {other_fps:g} frames per second; want one rate; choose other runs")
    return [Candidate(name, texts[name], one[name], two[name], fps) for name in one if name in two]


def _count(files: Sequence[Path], key_file: Path, as_json: bool) -> None:
    import json

    from rl_motion.evaluation import ab_tally
    from rl_motion.evaluation.ab import read_answers, read_key

    key = read_key(key_file)
    results = ab_tally.tally(read_answers(files, key), key)
    if as_json:
        typer.echo(json.dumps(ab_tally.as_json(results, key), allow_nan=False))
    else:
        _say(*ab_tally.as_markdown(results, key).splitlines())


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(printable(line))
