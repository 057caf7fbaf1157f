"""The metrics that text-to-motion papers report, one a file, on the embeddings of an evaluator that is never a reward.

`field_metrics` combines them over replications. Each file has its convention in words, printed beside the numbers; what
is drawn at random can be given as indices, so that the official code's indices give its numbers.
"""

from rl_motion.evaluation.metrics.field import CONVENTIONS, RealEmbeddings, field_metrics

__all__ = ["CONVENTIONS", "RealEmbeddings", "field_metrics"]
