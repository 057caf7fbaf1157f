"""The figures of `bench.json` as a Markdown table, as plots, and against those of another run.

    python jobs/bench/table.py bench/bench.json                                      # the table
    python jobs/bench/table.py bench/bench.json --into docs/benchmarks.md            # into the document, by its marks
    python jobs/bench/table.py bench/bench.json --against results/bench/bench.json   # the guard: 1 where a ratio fell

The guard compares ratios, never seconds: a slower machine is no regression. A ratio may be worse than the committed
one by the tolerance, a fifth, which is what rounds on one machine differ by under load.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rl_motion.config import UserError
from rl_motion.tracking.files import write_atomic

Content = Mapping[str, Any]
"""Of bench.json."""
TOLERANCE = 0.2
BEGIN, END = "<!-- generated: table.py -->", "<!-- end -->"


def read_bench(path: Path) -> dict[str, Any]:
    """The content of a `bench.json`.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for goal in content["goals"].values():
            _ = float(goal["value"]), float(goal["goal"]), bool(goal["at_least"]), str(goal["unit"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"got {path}, which is no bench.json ({error}); want what jobs/bench/bench.py writes") from None
    return dict(content)


def markdown(content: Content) -> str:
    """A line on where and with what, then a row a goal."""
    lines = [f"{_where(content)}", "", "| Goal | Value | Wanted | Met | Over what |", "| --- | --- | --- | --- | --- |"]
    for name, goal in content["goals"].items():
        sign = "≥" if goal["at_least"] else "≤"
        unit = "" if goal["unit"] == "x" else f" {goal['unit']}"
        value, wanted = f"{goal['value']:.3g}{unit}", f"{sign} {goal['goal']:g}{unit}"
        lines.append(f"| `{name}` | {value} | {wanted} | {'yes' if goal['met'] else '**no**'} | {goal['note']} |")
    return "\n".join(lines) + "\n"


def _where(content: Content) -> str:
    machine = content["machine"]
    said = (
        f"{machine.get('processor', 'unknown')}, {machine.get('cores', '?')} cores, torch {machine.get('torch', '?')}"
    )
    loads = [one["load_1min"] for one in content.get("machines", {}).values() if "load_1min" in one]
    said += f", load {min(loads):g} to {max(loads):g} when a part began" if loads else ""
    commit, changed, _ = (content.get("commit") or "unknown or several").partition("+")
    said += f"; commit {commit[:18]}{' with changes' if changed else ''}"
    return said + ("; **quick sizes: the figures mean nothing**" if content.get("quick") else "")


def put_into(document: Path, table: str) -> None:
    """Replace what lies between the marks of a document.

    Raises:
        UserError: it has none.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"got {document} without {BEGIN} and {END}; want both; write them where the table belongs")
    write_atomic(document, f"{before}{BEGIN}\n{table}{END}{after}".encode())


def fallen(new: Content, old: Content, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Every ratio that is worse than it was by more than the tolerance, and every one that is gone, a line each."""
    for name, was in old["goals"].items():
        if was["unit"] != "x":
            continue
        now = new["goals"].get(name)
        if now is None:
            yield f"{name}: not measured any more; it was {was['value']:.3g}"
            continue
        worse = was["value"] / now["value"] - 1 if was["at_least"] else now["value"] / was["value"] - 1
        if worse > tolerance:
            yield f"{name}: {now['value']:.3g}, {100 * worse:.0f} % worse than {was['value']:.3g}"


def plots(content: Content, folder: Path) -> None:
    """`bench.png`: of every ratio how far it is beyond its goal or short of it."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    ratios = {name: goal for name, goal in content["goals"].items() if goal["unit"] == "x" and goal["value"] > 0}
    if not ratios:
        return
    reached = [
        goal["value"] / goal["goal"] if goal["at_least"] else goal["goal"] / goal["value"] for goal in ratios.values()
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(ratios)), layout="constrained")
    colours = ["#2a7f62" if goal["met"] else "#b5482f" for goal in ratios.values()]
    axes.barh(range(len(ratios)), reached, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    names = [
        f"{name}  {goal['value']:.2f} ({'≥' if goal['at_least'] else '≤'} {goal['goal']:g})"
        for name, goal in ratios.items()
    ]
    axes.set_yticks(range(len(ratios)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the goal that is reached (right of the line: met)")
    figure.savefig(folder / "bench.png", dpi=120)
    pyplot.close(figure)


def main(
    bench: Annotated[Path, typer.Argument(help="A bench.json.")],
    into: Annotated[Path | None, typer.Option(help="A document to put the table into, between its marks.")] = None,
    against: Annotated[Path | None, typer.Option(help="A bench.json whose ratios must not be fallen behind.")] = None,
) -> None:
    """Print the table of a benchmark, put it into a document, or compare its ratios with another's."""
    console = Console(stderr=True)
    try:
        content = read_bench(bench)
        if against is not None:
            lines = list(fallen(content, read_bench(against)))
            for line in lines:
                console.print(line, style="red", markup=False)
            raise typer.Exit(1 if lines else 0)
        if into is not None:
            put_into(into, markdown(content))
            return
    except UserError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    typer.echo(markdown(content))


if __name__ == "__main__":
    typer.run(main)
