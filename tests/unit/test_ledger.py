"""Which prompts taught, and which are set aside."""

from __future__ import annotations

import pytest

from rl_motion.config import RunFault
from rl_motion.prompts.pool import make_prompt
from rl_motion.runtime.ledger import Ledger
from rl_motion.types import Unit

PROMPTS = [make_prompt(f"thing {number}", 4) for number in range(30)]


def unit(iteration: int, *numbers: int) -> Unit:
    return Unit(0, iteration, numbers[0], tuple(PROMPTS[number] for number in numbers), 2)


def test_counts_and_comes_back() -> None:
    ledger = Ledger()
    ledger.count([unit(0, *range(20)), unit(0, 20)])
    ledger.count([unit(1, 0)])
    ledger.put_aside(1, {PROMPTS[5].id: "it dies"})
    assert ledger.taught[PROMPTS[0].id] == 2 and ledger.taught[PROMPTS[20].id] == 1
    again = Ledger.from_bytes(ledger.to_bytes())
    assert again.taught == ledger.taught and again.set_aside == ledger.set_aside
    assert again.to_bytes() == ledger.to_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"taught": 3, "set_aside": {}}', b'{"taught": {}, "set_aside": {"a": 1}}']
)
def test_what_is_no_ledger_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        Ledger.from_bytes(content)


def test_what_is_set_aside_counts_only_once_every_resume_would_know() -> None:
    """Units of iteration 3 are asked for, with a lag of 2, before iteration 1 is over."""
    ledger = Ledger()
    ledger.count([unit(0, *range(20))])
    ledger.put_aside(1, {PROMPTS[5].id: "it dies"})
    for iteration, kept in ((2, [4, 5]), (3, [4, 5]), (4, [4])):
        (left,) = ledger.without_set_aside([unit(iteration, 4, 5)], lag=2)
        assert [PROMPTS.index(prompt) for prompt in left.prompts] == kept
    assert ledger.without_set_aside([unit(4, 5)], lag=2) == []
    assert ledger.without_set_aside([unit(2, 5)], lag=0) == []


def test_the_first_reason_stays_and_too_many_end_the_run() -> None:
    ledger = Ledger()
    ledger.count([unit(0, *range(20))])
    ledger.put_aside(0, {PROMPTS[20].id: "first"})
    ledger.put_aside(3, {PROMPTS[20].id: "second"})
    assert ledger.set_aside[PROMPTS[20].id].reason == "first"
    ledger.put_aside(3, {PROMPTS[21].id: "again"})
    with pytest.raises(RunFault, match=r"got 3 prompts of 23 that no worker survives .*\(thrice\); want 2 at most"):
        ledger.put_aside(4, {PROMPTS[22].id: "thrice"})
