"""How good the embedded grammar is: against 180 captions labelled one by one, and in how unlike its prompts are.

    python jobs/prompt_quality.py                            # decomposition and parts of speech, in seconds
    python jobs/prompt_quality.py --source captions.jsonl    # and near-duplicates among 20,000 prompts, in minutes

Labels: tests/golden/prompt_captions.md; they are older than the decomposer. The first 90 captions are those whose
decomposition errors were looked at while its rules were written; those of the last 90 were not, so these say how it
does on new captions. Of the tagger the errors on all 180 were looked at once, after its first version (96.1 % of words
with their tags). Intervals: 95 %, bootstrap over captions.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from rl_motion.prompts.vocabulary import listed

GOLD = Path(__file__).resolve().parents[1] / "tests" / "golden" / "prompt_captions.jsonl"
FIRST = 90
"""Captions whose decomposition errors were looked at."""
MATCHED = 0.7
"""Least F1 of two meta-motions' lemmas to count as the same."""
NEAR = 0.9
"""Least Jaccard index of two prompts' lemmas to count as near-duplicates."""
SAMPLE = 2_000
"""Prompts that are compared with all others, `CHUNK` at a time."""
CHUNK = 100
NAMES = listed("""
    person man woman figure human someone individual subject character he she they the a an his her their its to and
    this it
""")
"""Performers, and words that say nothing of the motion."""
MEASURES = {
    "decomposable, precision": ("both decompose", "decomposed"),
    "decomposable, recall": ("both decompose", "decomposable"),
    "meta-motions, precision": ("matched", "found"),
    "meta-motions, recall": ("matched", "meant"),
    "whole captions right": ("whole", "captions"),
    "word and tag right": ("tokens right", "tokens"),
    "tag right": ("tags right", "tokens"),
}
"""What is measured: the sum of one count over captions, over that of another."""


@dataclass(frozen=True, slots=True)
class Part:
    """A measure over some of the captions, with its interval."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """In percent."""
        interval = "" if self.low is None or self.high is None else f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f}{interval}"


def gold() -> list[dict[str, Any]]:
    """The labelled captions, in their order."""
    return [json.loads(line) for line in GOLD.read_text(encoding="utf-8").splitlines()]


def lemmas(text: str) -> frozenset[str]:
    """What a text is about, in whatever order, whoever performs."""
    from rl_motion.prompts.words import parse

    return frozenset(word.lemma for word in parse(text) if word.tag != "PUNCT") - NAMES


def matches(meant: Sequence[str], found: Sequence[str]) -> int:
    """How many meta-motions are matched one to one, the most alike first."""
    left, right = [lemmas(text) for text in meant], [lemmas(text) for text in found]
    alike = sorted(((_f1(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(right)), reverse=True)
    taken: tuple[set[int], set[int]] = set(), set()
    for f1, i, j in alike:
        if f1 >= MATCHED and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
    return len(taken[0])


def _f1(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / max(len(one) + len(other), 1)


def count(label: dict[str, Any]) -> dict[str, int]:
    """What MEASURES are made of, for one labelled caption."""
    from rl_motion.prompts.clauses import decompose
    from rl_motion.prompts.words import tag

    meant, found = label["meta_motions"], decompose(label["caption"])
    matched = matches(meant, found)
    wanted = [tuple(token.lower().rpartition("/")[::2]) for token in label["pos"].split()]
    tagged = [(word, pos.lower()) for word, pos in tag(label["caption"])]
    pairs = list(zip_longest(wanted, tagged, fillvalue=("", "")))
    return {
        "captions": 1,
        "decomposable": label["decomposable"],
        "decomposed": len(found) > 1,
        "both decompose": label["decomposable"] and len(found) > 1,
        "meant": len(meant),
        "found": len(found),
        "matched": matched,
        "whole": matched == len(meant) == len(found),
        "tokens": len(pairs),
        "tokens right": sum(a == b for a, b in pairs),
        "tags right": sum(a[1] == b[1] for a, b in pairs),
    }


def measure(labels: Sequence[dict[str, Any]]) -> dict[str, Part]:
    """Every measure over these captions."""
    from rl_motion.evaluation.statistics import paired_ratio

    counts = [count(label) for label in labels]
    names = [str(number) for number in range(len(labels))]
    found = {}
    for name, (above, below) in MEASURES.items():
        ratio = paired_ratio([c[below] for c in counts], [c[above] for c in counts], names, seed=0)
        found[name] = Part(ratio.value, ratio.low, ratio.high) if ratio else Part(0.0, None, None)
    return found


def near_duplicates(texts: Sequence[str]) -> Part:
    """The share of texts, of SAMPLE spread evenly over all, with a near-duplicate among all others.

    Order counts for nothing here, so that `waves, then bows` and `bows, then waves` are near-duplicates too.
    """
    import numpy as np

    from rl_motion.evaluation.statistics import bootstrap_mean

    bags = [lemmas(text) for text in texts]
    column = {lemma: number for number, lemma in enumerate(sorted(frozenset().union(*bags)))}
    has_NL = np.zeros((len(bags), len(column)), dtype=np.float32)
    for row, bag in enumerate(bags):
        has_NL[row, [column[lemma] for lemma in bag]] = 1.0
    size_N = has_NL.sum(axis=1)
    sampled = min(SAMPLE, len(texts))
    rows_S = np.arange(sampled) * len(texts) // sampled
    doubled: list[float] = []
    for rows_C in np.array_split(rows_S, -(-sampled // CHUNK)):
        shared_CN = has_NL[rows_C] @ has_NL.T
        near_CN = shared_CN >= NEAR * (size_N[rows_C, None] + size_N - shared_CN) - 1e-6
        near_CN[np.arange(len(rows_C)), rows_C] = False  # itself
        doubled += near_CN.any(axis=1).tolist()
    share = bootstrap_mean(doubled, [str(row) for row in rows_S], seed=0)
    return Part(share.value, share.low, share.high)


def _built(source: str, prompts: int) -> tuple[list[str], list[str]]:
    """Texts of a pool from these captions, and the captions."""
    from rl_motion.prompts.build import Settings, build
    from rl_motion.prompts.grammar import GrammarAuthor
    from rl_motion.prompts.sources import read_captions

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings((source,), prompts=prompts)
        table = build(settings, Path(folder) / "pool", GrammarAuthor(), lambda *_: None).table
    return [row.text for row in table.rows], [caption.text for caption in read_captions([source]).captions]


def _lines(source: str | None, prompts: int) -> Iterator[str]:
    labels = gold()
    parts = {f"first {FIRST}": labels[:FIRST], f"last {len(labels) - FIRST}": labels[FIRST:], "all": labels}
    found = {name: measure(part) for name, part in parts.items()}
    yield f"| % | {' | '.join(parts)} |"
    yield "| --- |" + " --- |" * len(parts)
    for name in MEASURES:
        yield f"| {name} | {' | '.join(str(found[part][name]) for part in parts)} |"
    if source is not None:
        built, captions = _built(source, prompts)
        yield f"\n| near-duplicates, % | of {SAMPLE:,} at most, among |"
        yield "| --- | --- |"
        yield f"| {near_duplicates(built)} | {len(built):,} prompts |"
        yield f"| {near_duplicates(captions)} | {len(captions):,} captions that they come from |"


def main(
    source: Annotated[str | None, typer.Option(help="Captions to build prompts from, as for prompts build.")] = None,
    prompts: Annotated[int, typer.Option(min=2, help="How many to build.")] = 20_000,
) -> None:
    """Print the tables."""
    from rl_motion.config import UserError

    try:
        for line in _lines(source, prompts):
            typer.echo(line)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
