"""How good the newest adapter is on prompts that nobody trains with: the same ones, with the same noise, every time."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch

from rl_motion.config import Job, RunFault, UserError
from rl_motion.config.errors import Paused
from rl_motion.evaluation.selection import draw, make_units
from rl_motion.evaluation.sentinels import Bands, Statistics, judge, log_ratio, statistics
from rl_motion.evaluation.statistics import bootstrap_mean
from rl_motion.prompts.pool import PromptPool, shared_out
from rl_motion.runtime.backend import Backend, Rollouts
from rl_motion.runtime.workers import Behaviour
from rl_motion.types import Metrics, Prompt, Unit

REWARD = "validation/reward"
"""The mean total reward; `_low` and `_high` beside it are its 95 % interval over prompts."""
_log = logging.getLogger(__name__)


def validation_units(job: Job, sources: Mapping[str, Sequence[Prompt]], pool: PromptPool) -> tuple[Unit, ...]:
    """What validation samples: `evaluation.validation_prompts` of the sources, mixed by their weights.

    Args:
        job: with `evaluation.validate_every`.
        sources: every prompt of `prompts.validation`, source by source.
        pool: of training.

    Raises:
        UserError: a source gives too few prompts or none, or shares one with training.
    """
    trained = {prompt.text.casefold() for prompt in pool.prompts}
    chosen: dict[str, Prompt] = {}
    for name, count in shared_out(job.evaluation.validation_prompts, job.prompts.validation).items():
        known = [prompt for prompt in sources[name] if prompt.text.casefold() in trained]
        if known:
            raise UserError(
                f"prompts.validation: got {name!r}, of whose prompts {len(known)} are trained with too, such as "
                f"{known[0].text[:60]!r}; want others, as a reward on these says nothing of new ones; remove them"
            )
        fresh = [prompt for prompt in sources[name] if prompt.id not in chosen]
        if not 0 < count <= len(fresh):
            raise UserError(
                f"prompts.validation: got {len(fresh)} prompts of its own in {name!r} and {count} to take from it; "
                "want one at least, and as many as are taken; change the weights or evaluation.validation_prompts"
            )
        chosen |= {prompt.id: prompt for prompt in draw(fresh, count, seed=job.evaluation.seed)}
    return tuple(replace(unit, watched=True) for unit in make_units(job, list(chosen.values())))


class Validation:
    """Asks the backend for the same units every time. It reads the adapter alone, so that no number depends on it."""

    def __init__(
        self, job: Job, units: Sequence[Unit], backend: Backend, untrained: Behaviour, bands: Bands | None
    ) -> None:
        """Every `evaluation.validate_every` updates; never where that is None.

        Args:
            job: resolved.
            units: of `validation_units`.
            backend: has started.
            untrained: the adapter that changes nothing, as training starts with it: what sentinels are compared with.
            bands: of the sentinels; None: they are measured and not judged.
        """
        self._every = job.evaluation.validate_every
        self._seed = job.evaluation.seed
        self._units = units
        self._backend = backend
        self._bands = bands
        self.alarms: Sequence[str] = ()
        """What the last call of `metrics` warned of."""
        self._untrained = untrained
        self._base: Rollouts | None = None

    def metrics(self, newest: Behaviour) -> Metrics:
        """The reward of this adapter with its interval, where it is the turn of its version; else nothing.

        Between two iterations. Units of later iterations that are in flight were asked for before: they are worked on
        first, and their answers stay where they are.

        Raises:
            RunFault: a reward is not finite.
        """
        self.alarms = ()
        if self._every is None or newest.version % self._every:
            return {}
        started = time.perf_counter()
        rollouts = self._ask(newest)
        if not rollouts.scored:
            return {}
        total_N = torch.cat([scored.total_B for scored in rollouts.scored]).double()
        if not total_N.isfinite().all():
            raise RunFault(
                f"got validation rewards that are not finite, of adapter version {newest.version}; want finite ones; "
                "look at the rewards, mend them and start a new run"
            )
        prompts = [prompt.id for unit in rollouts.units for prompt in unit.row_prompts]
        found = bootstrap_mean(total_N.numpy(), prompts, seed=self._seed)
        metrics = {REWARD: found.value, "time/validation_s": time.perf_counter() - started}
        if found.low is not None and found.high is not None:
            metrics |= {f"{REWARD}_low": found.low, f"{REWARD}_high": found.high}
        return metrics | self._watched(rollouts, found.value)

    def _ask(self, behaviour: Behaviour) -> Rollouts:
        rollouts = self._backend.ask(self._units, behaviour)()
        if rollouts.set_aside:
            _log.warning("validation went on without %d prompts: %s", len(rollouts.set_aside), rollouts.set_aside)
        return rollouts

    def _watched(self, rollouts: Rollouts, reward: float) -> Metrics:
        """Means of the sentinels and their ratios to the base's, and how many left their bands; warns."""
        base = self._base = self._base or self._ask(self._untrained)
        if [unit.prompts for unit in base.units] != [unit.prompts for unit in rollouts.units]:
            return {}  # Prompts that were set aside on one side only: nothing is paired.
        before, now = (_statistics(part) for part in (base, rollouts))
        metrics = {f"sentinel/{name}": value for name, value in now.means.items()}
        metrics |= {
            f"sentinel/{name}_ratio": math.exp(log_ratio(name, value, before.means[name]))
            for name, value in now.means.items()
        }
        if self._bands is not None:
            alarms = judge(now, before, self._bands)
            metrics["sentinel/alarms"] = float(len(alarms))
            gained = reward - torch.cat([scored.total_B for scored in base.scored]).double().mean().item()
            if alarms and gained > 0:
                self.alarms = tuple(
                    f"the validation reward rose by {gained:.3g} over the base's, and {alarm}" for alarm in alarms
                )
            for alarm in self.alarms:
                _log.warning("%s", alarm)
        return metrics


def _statistics(rollouts: Rollouts) -> Statistics:
    return statistics(
        [scored.sentinels for scored in rollouts.scored], sum(len(unit.prompts) for unit in rollouts.units)
    )


def paused(alarms: Sequence[str]) -> Paused:
    """What ends a run whose sentinels left their bands while its reward rose, with what to do about it."""
    end = Paused(
        "paused: " + "; ".join(alarms) + ". Want a reward that is earned with natural motion; look at the motions and "
        "the reward"
    )
    end.add_note("to go on all the same, resume with --set sentinels.pause=false")
    return end


def units_sha256(units: Sequence[Unit]) -> str:
    """Hash of the prompts that are sampled, in order; empty where there are none."""
    prompts = [asdict(prompt) for unit in units for prompt in unit.prompts]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest() if prompts else ""
