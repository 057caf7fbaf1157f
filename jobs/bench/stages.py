"""Stages of an iteration on one model: ours, the straightforward loop, the bare network calls and the floor, in turn.

    python jobs/bench/stages.py mdm --out bench           # some minutes; bench.py calls it for every model

Every figure is a ratio within a round (timing.py). A learner's step here is two passes over one unit, of DDPO with a KL
(weight 0.1, as the jobs at the papers' settings have it): forward and backward of every transition in both, and of the
model without adapter once in ours, once a pass in the straightforward loop. It is measured over two transitions, of
three steps: an update takes as long for each, and there is time for more rounds.

Prompts of real lengths come to 196 frames at most in every unit here, so the straightforward loop, which pads, works on
the shapes of full length: its time there stands for both.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer
from arms import EPOCHS, LEARNED_STEPS, Calls, Ours, Plain, floor_operations, tiny, whole_job
from cases import Case, Kind, Lengths, knows_precision, make_models
from goals import Goal
from limits import best_rate
from ray_part import Measured, Say, run_part
from safetensors import torch as safetensors
from timing import Times, interleaved, ratio, spread

from rl_motion.models.adapter import adapter_checksum, adapter_state
from rl_motion.runtime.build import Workshop, build_decoder, build_rewards, measure_sentinels
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.workers import Behaviour, verified
from rl_motion.tracking.files import write_atomic
from rl_motion.types import Unit

KINDS: tuple[str, ...] = get_args(Kind)
THREADS = 2
_PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm"}
_LEAST = {"rollout": 1.3, "rollout fast": 2.0, "learner": 2.0}
_MOST = {"rollout over bare": 1.15, "learner over floor": 1.25, "straightforward over bare": 1.05}


def products(events: Sequence[Any], best: float) -> str:
    """What a profile's matrix products reach of the best rate."""
    done, took = sum(event.flops for event in events), sum(event.self_cpu_time_total for event in events) / 1e6
    return (
        f"matrix products: {done / 1e9:.0f} GFLOP in {took:.2f} s, {done / max(took, 1e-9) / 1e9:.0f} GFLOP/s; the "
        f"best product beside it {best / 1e9:.0f} GFLOP/s"
    )


class Measurement:
    """Everything that is measured of one model."""

    def __init__(self, kind: Kind, folder: Path, *, quick: bool, tell: Callable[[str], None]) -> None:
        """`folder` keeps the models; `tell` is told what is being done."""
        self.kind: Kind = kind
        self.quick = quick
        self.tell = tell
        self.models = make_models(folder, quick=quick)
        self.full = Case(kind, "full", quick=quick)
        self.goals: list[Goal] = []
        self.stages: dict[str, Any] = {"threads": torch.get_num_threads()}
        self.profiles: dict[str, str] = {}
        unit = self.full.unit
        self.note = f"{unit.batch} motions of {unit.prompts[0].length} frames"

    @cached_property
    def variants(self) -> dict[str, Case]:
        """The other modes of ours, by the end of their names."""
        lengths: list[Lengths] = ["full", "real"] if self.kind == "mdm" else ["full"]
        precisions = ["float32", "bfloat16"] if knows_precision() else ["float32"]
        made = [Case(self.kind, length, precision, self.quick) for length in lengths for precision in precisions]  # type: ignore[arg-type]
        return {case.name.removeprefix(f"{self.kind}_"): case for case in made}

    def measure(self, seconds: float) -> None:
        """All stages, in about so many seconds."""
        self.tell("loading")
        ours = {name: Ours(case, self.models) for name, case in self.variants.items()}
        plain, stacked = Plain(self.full, self.models), Plain(self.full, self.models, stacked=True)
        self.stages["operations"] = {name: floor_operations(case, self.models) for name, case in self.variants.items()}
        network: Any = ours["full_fp32"].policy
        bare = Calls(network._denoiser, plain.samples, plain.job.policy.steps, stacked=True)
        bare.forward()
        self._rollouts(ours, plain, stacked, bare, 0.5 * seconds)
        self._others(ours["full_fp32"], plain, 0.05 * seconds)
        self.tell("loading")
        ours = {name: Ours(case, self.models, LEARNED_STEPS) for name, case in self.variants.items()}
        self._learners(ours, Plain(self.full, self.models, LEARNED_STEPS), 0.35 * seconds)
        self._iteration(Ours(self.full, self.models), 0.1 * seconds)

    def _rollouts(self, ours: dict[str, Ours], plain: Plain, stacked: Plain, bare: Calls, seconds: float) -> None:
        arms: dict[str, Callable[[], object]] = {name: one.rollout for name, one in ours.items()}
        arms |= {"straightforward": plain.rollout, "straightforward stacked": stacked.rollout}
        arms |= {"bare": bare.rollout, "straightforward bare": plain.calls.rollout}
        times = self._rates("rollout", arms, seconds)
        for name in ours:
            fast = name != "full_fp32"
            what = f"rollout/{self.kind}_{name}"
            least = _LEAST["rollout fast" if fast else "rollout"]
            self._goal(what, times["straightforward"], times[name], least, "straightforward over ours")
        self._most("rollout over bare", times["full_fp32"], times["bare"], "ours over the bare network calls")
        inside = plain.network_s["rollout"]
        self._most(
            "straightforward over bare", inside, times["straightforward bare"], "the loop's network time, rollout"
        )
        self.stages["rollout"]["stacked over separate"] = ratio(
            times["straightforward stacked"], times["straightforward"]
        ).json
        self._explain("rollout", ours["full_fp32"].rollout)

    def _learners(self, ours: dict[str, Ours], plain: Plain, seconds: float) -> None:
        arms: dict[str, Callable[[], object]] = {name: one.learn for name, one in ours.items()}
        arms |= {"straightforward": plain.learn, "straightforward bare": plain.calls.learner}
        times = self._rates("learner", arms, seconds)
        for name in ours:
            what = f"learner/{self.kind}_{name}"
            self._goal(what, times["straightforward"], times[name], _LEAST["learner"], "straightforward over ours")
        operations, rates = self.stages["operations"], self.stages["learner"]["rates"]
        for name in ours:
            floor = [operations[name]["learner"] / rate for rate in rates["bf16" if "bf16" in name else "fp32"]]
            what = "learner over floor" if name == "full_fp32" else f"learner over floor {name}"
            self._most(what, times[name], floor, "ours over its floor", _MOST["learner over floor"])
        inside = [seconds / EPOCHS for seconds in plain.network_s["learner"]]
        self._most("straightforward learner over bare", inside, times["straightforward bare"],
                   "the loop's network time, update", _MOST["straightforward over bare"])  # fmt: skip
        self._explain("learner", ours["full_fp32"].learn)

    def _rates(self, stage: str, arms: dict[str, Callable[[], object]], seconds: float) -> Times:
        """The arms' times, beside them the machine's rates of every round; kept as a stage."""
        rates: dict[str, list[float]] = {"fp32": [], "bf16": []}

        def rate() -> None:
            for name, precision in (("fp32", "float32"), ("bf16", "bfloat16")):
                rates[name].append(best_rate(precision, 0.002 if self.quick else 0.1))

        least = 1 if self.quick else 3
        times = interleaved(
            {"rate": rate, **arms}, seconds=seconds, least=least, tell=lambda what: self.tell(f"{stage}: {what}")
        )
        self.stages[stage] = {"seconds": {name: spread(times[name]).json for name in arms}, "rates": rates}
        return times

    def _others(self, ours: Ours, plain: Plain, seconds: float) -> None:
        """Reward, evaluation, weight sync, and the whole iteration."""
        decode, rewards = build_decoder(ours.job), build_rewards(ours.job)
        trajectory, unit = ours.trajectory, ours.unit

        def examine() -> None:
            motions = decode(ours.policy.adapter_to_the_end(trajectory) or trajectory)  # type: ignore[attr-defined]
            rewards(motions, unit)
            measure_sentinels(motions, unit)

        behaviours = []

        def sync() -> None:
            state = ours.policy.adapter_state()
            sent = Behaviour(1, adapter_checksum(state), safetensors.save(state))
            ours.policy.load_adapter_state(verified(sent))
            behaviours.append(sent)

        arms: dict[str, Callable[[], object]] = {
            "reward": lambda: rewards(decode(trajectory), unit),
            "evaluation after its rollout": examine,
            "weight sync": sync,
            "text of one batch": lambda: plain.loop.text([prompt.text for prompt in unit.row_prompts]),
        }
        with torch.no_grad():
            times = interleaved(arms, seconds=seconds, least=2, tell=self.tell)
        self.stages["others"] = {"seconds": {name: spread(times[name]).json for name in arms}}
        network: Any = plain.denoiser.network
        tensors = sum(tensor.nbytes for tensor in adapter_state(network).values())
        whole = sum(parameter.nbytes for parameter in network.parameters())
        self.stages["others"]["bytes"] = {"sent": len(behaviours[0].adapter), "adapter": tensors, "network": whole}
        note = f"bytes sent over those of the adapter's {tensors} B; the network has {whole} B"
        self.goals.append(Goal(f"sync/{self.kind}_bytes", len(behaviours[0].adapter) / tensors, 1.25, False, "x", note))

    def _iteration(self, ours: Ours, seconds: float) -> None:
        """The local backend's whole iteration, beside the sum of its stages and the straightforward loop's."""
        backend = LocalBackend(ours.job, Workshop())
        behaviour = [backend.start().behaviour]

        def iterate(unit: Unit = ours.unit) -> None:
            learned = backend.learn(backend.ask([unit], behaviour[0])())
            behaviour[0] = learned.snapshot.behaviour

        iterate(tiny(ours.unit))
        took = interleaved({"iteration": iterate}, seconds=seconds, least=1, most=5, tell=self.tell)["iteration"]
        stage = {name: self.stages[name]["seconds"] for name in ("rollout", "learner", "others")}
        reward = stage["others"]["reward"]["median"]
        longer = (ours.job.policy.steps - 1) / (whole_job(self.full, self.models, LEARNED_STEPS).policy.steps - 1)
        parts = {name: stage["rollout"][name]["median"] + longer * stage["learner"][name]["median"] + reward
                 for name in ("full_fp32", "straightforward")}  # fmt: skip
        iteration = spread(took)
        self.stages["iteration"] = {
            "seconds": iteration.json,
            "over its stages": iteration.median / parts["full_fp32"],
            "straightforward over ours": parts["straightforward"] / iteration.median,
        }

    def _goal(self, name: str, over: Sequence[float], under: Sequence[float], least: float, note: str) -> None:
        found = ratio(over, under)
        self.stages.setdefault("ratios", {})[name] = found.json
        self.goals.append(Goal(name, found.median, least, True, "x", f"{note}; {self._told(name)}"))

    def _most(
        self, what: str, over: Sequence[float], under: Sequence[float], note: str, most: float | None = None
    ) -> None:
        stage, _, rest = what.partition(" ")
        name = f"{stage}/{self.kind}_{rest.replace(' ', '_')}"
        found = ratio(over, under)
        self.stages.setdefault("ratios", {})[name] = found.json
        goal = _MOST[what] if most is None else most
        self.goals.append(Goal(name, found.median, goal, False, "x", f"{note}; {self._told(name)}"))

    def _told(self, name: str) -> str:
        if "real" not in name:
            return self.note
        lengths = ", ".join(str(prompt.length) for prompt in Case(self.kind, "real", quick=self.quick).unit.prompts)
        return f"{self.full.unit.batch} motions of {lengths} frames"

    def _explain(self, stage: str, call: Callable[[], object]) -> None:
        """A table of operators where a figure of the stage misses its goal."""
        if all(goal.met for goal in self.goals if goal.name.startswith(f"{stage}/{self.kind}_")):
            return
        self.tell(f"profile of {stage}")
        before = best_rate("float32", 0.1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profiler:
            call()
        best = max(before, best_rate("float32", 0.1))
        found = profiler.key_averages()
        self.profiles[f"{self.kind}-{stage}"] = "\n".join([
            products([event for event in found if event.key in _PRODUCTS], best),
            found.table(sort_by="self_cpu_time_total", row_limit=25),
        ])  # fmt: skip


def main(
    kind: Annotated[str, typer.Argument(help="embedded, mdm or unet.")],
    out: Annotated[
        Path, typer.Option(help="The benchmark's folder: OUT/parts/KIND.json, OUT/profile-*.txt; OUT/models is kept.")
    ] = Path("bench"),
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 300.0,
    quick: Annotated[bool, typer.Option("--quick", help="Small models, one thread, one round, for tests.")] = False,
) -> None:
    """Measure rollout, learner, reward, weight sync, evaluation and the whole iteration on one model."""
    if kind not in KINDS:
        raise typer.BadParameter(f"got {kind!r}; want one of {', '.join(KINDS)}")
    torch.set_num_threads(1 if quick else THREADS)

    def measure(quick: bool, say: Say) -> Measured:
        found = Measurement(cast(Kind, kind), out / "models", quick=quick, tell=say)
        found.measure(0.0 if quick else seconds)
        for name, table in found.profiles.items():
            write_atomic(out / f"profile-{name}.txt", table.encode())
        return found.goals, found.stages

    run_part(kind, out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
