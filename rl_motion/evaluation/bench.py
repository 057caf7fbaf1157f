"""What the arms are examined with: where prompts come from, who judges, what rewards, and real motion beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rl_motion.config import Job
from rl_motion.evaluation.embedding import MotionEvaluator, Real
from rl_motion.evaluation.guarantees import Combination, Seen
from rl_motion.evaluation.oracle_success import Judging, embedded_judge
from rl_motion.rewards.combine import Term
from rl_motion.rewards.of_job import job_terms
from rl_motion.types import Prompt, Representation

EMBEDDED = Judging(embedded_judge, frozenset({Representation.HUMANML3D_263}))


@dataclass(frozen=True, slots=True)
class Bench:
    """By split: its prompts, who judges success, which evaluator embeds, and real motion for some of its prompts.

    judging: None for splits that nobody can judge.
    evaluator: None where there is none, for all splits or for one; without it the field's metrics are left out.
    real: (split, prompts) -> motions to compare with, of the prompts' actions; None where there are none.
    seen: what the job has read, of which nothing may be evaluated.
    combination: what a text asks for, whatever its wording; None: only ids and texts are compared.
    """

    prompts: Callable[[str], Sequence[Prompt]]
    terms: Sequence[Term]
    judging: Callable[[str], Judging | None] = field(default=lambda split: EMBEDDED)
    evaluator: Callable[[str], MotionEvaluator | None] | None = None
    real: Callable[[str, Sequence[Prompt]], Real | None] | None = None
    seen: Seen = field(default_factory=Seen)
    combination: Combination | None = None


def embedded_bench(job: Job) -> Bench:
    """The embedded world's prompts and oracle, and the job's own rewards."""
    from rl_motion.data.embedded import prompts
    from rl_motion.data.oracle_reading import read

    return Bench(prompts=prompts, terms=job_terms(job), combination=read)
