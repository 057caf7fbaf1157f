"""How learners share an update: in rounds, one for each optimiser step.

In a round every learner says the gradients of its own units and hears those of all, sums them in unit order and steps;
so all take the same step, and it is the one that a single learner would take. Here they hear one another in one
process. Between processes whoever placed them passes on what they say (`rl_motion.runtime`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from rl_motion.types import Metrics, UnitGradient

Rounds = Generator[list[UnitGradient], Sequence[UnitGradient], Metrics]
"""Yields a learner's own gradients, is sent those of all in any order, returns the update's metrics. Closed before its
end, it leaves the learner as it was before the update."""


def together(learners: Sequence[Rounds]) -> list[Metrics]:
    """See an update through in this process, learner by learner, so that a debugger can follow.

    Returns:
        What each learner returned.

    Raises:
        Exception: what the first learner raised that failed; none was updated.
    """
    try:
        said = [gradient for learner in learners for gradient in next(learner)]
        while True:
            heard, said, results = said, [], []
            for learner in learners:
                try:
                    said += learner.send(heard)
                except StopIteration as end:
                    results.append(end.value)
            if results:
                return results
    finally:
        for learner in learners:
            learner.close()
