"""Text features before the first iteration: what the job's text encoders say of its prompts is in their cache by then.

So a text encoder of the size of CLIP computes nothing in the loop, and workers that share the cache's folder never load
its weights. Small encoders, of which nothing is kept, are not asked (`rl_motion.models.text_cache`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from rl_motion.config import Job
from rl_motion.runtime.progress import counting
from rl_motion.types import Prompt

if TYPE_CHECKING:
    from rl_motion.models.text import Form, TextEncoder
    from rl_motion.runtime.build import Workshop

_OF_EVERY_MODEL = ("a", "")
"""What a model is tried with when it is loaded, and the text of those whose null condition is the empty one."""
_log = logging.getLogger(__name__)


def fill(job: Job, workshop: Workshop, prompts: Sequence[Prompt], console: Console) -> None:
    """Have every prompt read as the job's checkpoints read it, unless that was done before; says how far it is.

    Ended early, it goes on where it was: entries are kept one by one.

    Raises:
        UserError: a text encoder does not load, or an environment variable of the cache is wrong.
    """
    texts = list(dict.fromkeys([*_OF_EVERY_MODEL, *(prompt.text for prompt in prompts)]))
    threads = torch.get_num_threads()
    torch.set_num_threads(job.runtime.threads)  # as workers compute: threads change rounding
    try:
        for encoder, form in workshop.text_readers(job):
            _fill(encoder, form, texts, console)
    finally:
        torch.set_num_threads(threads)


def _fill(encoder: TextEncoder, form: Form, texts: Sequence[str], console: Console) -> None:
    name, read = encoder.directory.name, getattr(encoder, form)
    cut = sum(map(encoder.is_cut, texts)) if encoder.cut is not None else 0
    if cut:
        _log.warning(
            "of %d texts, %d are longer than the %d tokens that the model reads, as in its authors' code: it does not "
            "see their ends",
            len(texts),
            cut,
            encoder.cut,
        )
    with counting(console, f"text features, {name}", len(texts)) as count:
        for done, text in enumerate(texts, 1):
            read([text])
            count(done)
    if encoder.computed:
        _log.info("text features: %s ran %d times for %d texts", name, encoder.computed, len(texts))
