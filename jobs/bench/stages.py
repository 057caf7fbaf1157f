"""Stages of an iteration on one model: ours, the straightforward loop, the bare network calls and the floor, in turn.

    python jobs/bench/stages.py mdm --out bench           # some minutes; bench.py calls it for every model

Every figure is a ratio within a round (timing.py) of a process that holds ours in one mode and the straightforward
loop, and nothing else (compare.py). A learner's step here is two passes over one unit, of DDPO with a KL
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
from apart import apart
from arms import EPOCHS, LEARNED_STEPS, Ours, Plain, floor_operations, tiny, whole_job
from cases import Case, Kind, Lengths, Precision, make_models
from goals import Goal
from ray_part import THREADS, Measured, Say, run_part
from safetensors import torch as safetensors
from timing import interleaved, ratio, spread

from rl_motion.models.adapter import adapter_checksum, adapter_state
from rl_motion.runtime.build import Workshop, build_decoder, build_rewards, measure_sentinels
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.workers import Behaviour, verified
from rl_motion.tracking.files import write_atomic
from rl_motion.types import Unit

KINDS: tuple[str, ...] = get_args(Kind)
STAGES = ("rollout", "learner")
_LEAST = {"rollout": 1.3, "rollout fast": 2.0, "learner": 2.0}
_MOST = {"over bare": 1.15, "over floor": 1.25, "straw man": 1.05}


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
        """A table of operators for every comparison at full length that misses a goal."""
        unit = self.full.unit
        self.note = f"{unit.batch} motions of {unit.prompts[0].length} frames"

    @cached_property
    def variants(self) -> dict[str, Case]:
        """The modes of ours, by the end of their names."""
        lengths: list[Lengths] = ["full", "real"] if self.kind == "mdm" else ["full"]
        precisions: list[Precision] = ["float32", "bfloat16"]
        made = [Case(self.kind, length, precision, self.quick) for length in lengths for precision in precisions]
        return {case.name.removeprefix(f"{self.kind}_"): case for case in made}

    def measure(self, seconds: float) -> None:
        """All stages, in about so many seconds."""
        each = 0.8 * seconds / (2 * len(self.variants))
        for stage in STAGES:
            for name, case in self.variants.items():
                self._compare(stage, name, case, each)
        self.tell("loading")
        ours, plain = Ours(self.full, self.models), Plain(self.full, self.models)
        self._others(ours, plain, 0.05 * seconds)
        del ours, plain
        self._iteration(Ours(self.full, self.models, LEARNED_STEPS), 0.1 * seconds)

    def _compare(self, stage: str, name: str, case: Case, seconds: float) -> None:
        """A stage in one mode, in a process of its own, against the straightforward loop and its floor."""
        self.tell(f"{stage} {name}")
        words = ["--models", str(self.models), "--lengths", case.lengths, "--precision", case.precision]
        words += ["--seconds", str(seconds), *(["--quick"] if self.quick else [])]
        found = apart("compare.py", f"{stage} of {case.name}", stage, self.kind, *words)
        times, before = found["seconds"], len(self.goals)
        kept = self.stages.setdefault(stage, {})
        kept[name] = {"seconds": {arm: spread(took).json for arm, took in times.items()}, "rates": found["rates"]}
        fast = "" if name == "full_fp32" or stage == "learner" else " fast"
        self._goal(f"{stage}/{case.name}", times["straightforward"], times["ours"], _LEAST[stage + fast],
                   "straightforward over ours")  # fmt: skip
        operations = self._operations(name, case)[stage]
        floor = [operations / rate for rate in found["rates"]]
        self.stages.setdefault("ratios", {})[f"{case.name} {stage} over floor"] = ratio(times["ours"], floor).json
        if stage == "learner":
            what = "learner over floor" + ("" if name == "full_fp32" else f" {name}")
            self._most(what, times["ours"], floor, "ours over its floor", _MOST["over floor"])
        if "straightforward bare" in times:
            # The bare calls of an update are those of one pass.
            passes, of = (EPOCHS, "learner ") if stage == "learner" else (1, "")
            inside = [took / passes for took in found["inside"]]
            note = f"the loop's network time, {'update' if of else 'rollout'}"
            self._most(
                f"straightforward {of}over bare", inside, times["straightforward bare"], note, _MOST["straw man"]
            )
        if "bare" in times:
            self._most(f"{stage} over bare", times["ours"], times["bare"], "ours over the bare network calls",
                       _MOST["over bare"])  # fmt: skip
        if found["profile"] and not all(goal.met for goal in self.goals[before:]):
            self.profiles[f"{case.name}-{stage}"] = found["profile"]

    def _operations(self, name: str, case: Case) -> dict[str, int]:
        counted: dict[str, dict[str, int]] = self.stages.setdefault("operations", {})
        if name not in counted:
            counted[name] = floor_operations(case, self.models)
        return counted[name]

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
        """The local backend's whole iteration, of few steps, beside the sum of its stages and the loop's."""
        backend = LocalBackend(ours.job, Workshop())
        behaviour = [backend.start().behaviour]

        def iterate(unit: Unit = ours.unit) -> None:
            learned = backend.learn(backend.ask([unit], behaviour[0])())
            behaviour[0] = learned.snapshot.behaviour

        iterate(tiny(ours.unit))
        took = interleaved({"iteration": iterate}, seconds=seconds, least=1, most=5, tell=self.tell)["iteration"]
        rollout, learner = (self.stages[stage]["full_fp32"]["seconds"] for stage in STAGES)
        reward = self.stages["others"]["seconds"]["reward"]["median"]
        share = ours.job.policy.steps / whole_job(self.full, self.models).policy.steps
        parts = {arm: share * rollout[arm]["median"] + learner[arm]["median"] + reward
                 for arm in ("ours", "straightforward")}  # fmt: skip
        iteration = spread(took)
        self.stages["iteration"] = {
            "seconds": iteration.json,
            "over its stages": iteration.median / parts["ours"],
            "straightforward over ours": parts["straightforward"] / iteration.median,
        }

    def _goal(self, name: str, over: Sequence[float], under: Sequence[float], least: float, note: str) -> None:
        found = ratio(over, under)
        self.stages.setdefault("ratios", {})[name] = found.json
        self.goals.append(Goal(name, found.median, least, True, "x", f"{note}; {self._told(name)}"))

    def _most(self, what: str, over: Sequence[float], under: Sequence[float], note: str, most: float) -> None:
        stage, _, rest = what.partition(" ")
        name = f"{stage}/{self.kind}_{rest.replace(' ', '_')}"
        found = ratio(over, under)
        self.stages.setdefault("ratios", {})[name] = found.json
        self.goals.append(Goal(name, found.median, most, False, "x", f"{note}; {self._told(name)}"))

    def _told(self, name: str) -> str:
        if "real" not in name:
            return self.note
        lengths = ", ".join(str(prompt.length) for prompt in Case(self.kind, "real", quick=self.quick).unit.prompts)
        return f"{self.full.unit.batch} motions of {lengths} frames"


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
        for old in out.glob(f"profile-{kind}*.txt"):
            old.unlink()
        for name, table in found.profiles.items():
            write_atomic(out / f"profile-{name}.txt", f"{table}\n".encode())
        return found.goals, found.stages

    run_part(kind, out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
