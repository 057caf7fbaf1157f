"""One comparison of one model in one process: ours in one mode, the straightforward loop beside it, and nothing else.

    python jobs/bench/compare.py rollout mdm --models bench/models         # what stages.py calls, a mode at a time

Prints the seconds of every round as JSON: `{seconds: {arm: [...]}, inside: [...], rates: [...], profile}`.
`inside`: of the straightforward loop's seconds, its network's. A process holds two models: what a third costs the first
two (its memory, the caches of a library) would else be in their ratio, and it was found to be much.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from arms import LEARNED_STEPS, Calls, Ours, Plain
from cases import Case, Kind, Lengths, Precision
from limits import best_rate
from ray_part import THREADS
from timing import interleaved

Arms = dict[str, Callable[[], object]]
_PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm"}
_ONEDNN = "mkldnn::_linear_pointwise"
"""Ours, which torch's profiler counts no operations of."""


def rollout(case: Case, models: Path, *, bare: bool) -> tuple[Arms, Plain]:
    """Arms of a rollout; `bare`: with the bare calls of both."""
    ours, plain = Ours(case, models), Plain(replace(case, lengths="full", precision="float32"), models)
    arms: Arms = {"ours": ours.rollout, "straightforward": plain.rollout}
    if bare:
        network: Any = ours.policy
        calls = Calls(network._denoiser, plain.samples, plain.job.policy.steps, stacked=True)
        arms |= {"bare": calls.rollout, "straightforward bare": plain.calls.rollout}
        calls.forward()
    return arms, plain


def learner(case: Case, models: Path, *, bare: bool) -> tuple[Arms, Plain]:
    """Arms of an update, and what both learn from; `bare`: with the bare calls of the straightforward loop."""
    whole = replace(case, lengths="full", precision="float32")
    ours, plain = Ours(case, models, LEARNED_STEPS), Plain(whole, models, LEARNED_STEPS)
    _ = ours.trajectory, plain.samples
    arms: Arms = {"ours": ours.learn, "straightforward": plain.learn}
    if bare:
        arms |= {"straightforward bare": plain.calls.learner}
    return arms, plain


STAGES = {"rollout": rollout, "learner": learner}


def products(events: Sequence[Any], best: float) -> str:
    """What a profile's matrix products reach of the best rate; events by shapes."""
    done = sum(_operations(event) for event in events)
    took = sum(event.self_cpu_time_total for event in events if event.key in _PRODUCTS or event.key == _ONEDNN) / 1e6
    return (
        f"matrix products: {done / 1e9:.0f} GFLOP in {took:.2f} s, {done / max(took, 1e-9) / 1e9:.0f} GFLOP/s; the "
        f"best product beside it {best / 1e9:.0f} GFLOP/s"
    )


def _operations(event: Any) -> float:
    if event.key == _ONEDNN:
        x, weight = event.input_shapes[:2]
        operations: float = 2.0 * event.count * float(torch.Size(x).numel()) * float(weight[0])
        return operations
    return float(event.flops) if event.key in _PRODUCTS else 0.0


def explain(precision: str, call: Callable[[], object], seconds: float = 0.1) -> str:
    """A table of operators, beginning with what the products reach."""
    before = best_rate(precision, seconds)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, with_flops=True, record_shapes=True) as profiler:
        call()
    best = max(before, best_rate(precision, seconds))
    told = products(profiler.key_averages(group_by_input_shape=True), best)
    return f"{told}\n{profiler.key_averages().table(sort_by='self_cpu_time_total', row_limit=25)}"


def main(  # noqa: PLR0913, PLR0917 - the options of a command
    stage: Annotated[str, typer.Argument(help="rollout or learner.")],
    kind: Annotated[str, typer.Argument(help="embedded, mdm or unet.")],
    models: Annotated[Path, typer.Option(help="Where make_models put them.")],
    lengths: Annotated[str, typer.Option(help="full or real.")] = "full",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 60.0,
    quick: Annotated[bool, typer.Option("--quick", help="Small models, one thread, one round, for tests.")] = False,
) -> None:
    """Measure a stage in one mode beside the straightforward loop, and print every round's seconds."""
    torch.set_num_threads(1 if quick else THREADS)
    case = Case(cast(Kind, kind), cast(Lengths, lengths), cast(Precision, precision), quick)
    arms, plain = STAGES[stage](case, models, bare=case.name.endswith("full_fp32"))
    each_s = 0.002 if quick else 0.1
    rates: list[float] = []
    measured: Arms = {"rate": lambda: rates.append(best_rate(precision, each_s)), **arms}
    times = interleaved(measured, seconds=seconds, least=1 if quick else 3)
    found = {
        "seconds": {name: times[name] for name in arms},
        "inside": plain.network_s[stage],
        "rates": rates,
        "profile": explain(precision, arms["ours"], each_s) if case.lengths == "full" else "",
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    typer.run(main)
