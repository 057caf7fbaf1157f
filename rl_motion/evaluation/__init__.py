"""What improved and what did not: frozen metrics, paired arms, honest intervals, the report."""

from __future__ import annotations

from rl_motion.evaluation.evaluate import Bench, Evaluation, Record, evaluate
from rl_motion.evaluation.report import before_after_table, evaluate_run

__all__ = ["Bench", "Evaluation", "Record", "before_after_table", "evaluate", "evaluate_run"]
