"""What is set aside on the way from captions to prompts, and why: nothing is lost without a word."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

Stage = Literal["read", "decompose", "meta-motion", "combine", "compose", "check", "judge", "novel", "enough"]
"""Where: a line of a source; a caption that has no answer; a part of one; an order for a prompt whose meta-motions are
used up; one that has no answer; the rules; the author's verdict; what is there already; more than were asked for."""


class SetAside(NamedTuple):
    """A caption, a meta-motion or a prompt that did not pass. sources: ids of captions, or where the line is."""

    stage: Stage
    reason: str
    text: str
    sources: tuple[str, ...]


class Tally:
    """All that was set aside, in the order in which it was."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.set_aside: list[SetAside] = []

    def add(self, stage: Stage, reason: str, text: str, sources: Sequence[str]) -> None:
        """Set something aside."""
        self.set_aside.append(SetAside(stage, reason, text, tuple(sources)))

    def by_stage(self) -> dict[Stage, int]:
        """How much, by stage."""
        return dict(Counter(one.stage for one in self.set_aside))

    def by_reason(self) -> list[tuple[Stage, str, int, str]]:
        """(stage, reason, how often, the first text): stages as they come, the most frequent reason of each first."""
        counts = Counter((one.stage, one.reason) for one in self.set_aside)
        examples: dict[tuple[Stage, str], str] = {}
        for one in self.set_aside:
            examples.setdefault((one.stage, one.reason), one.text)
        stages = list(dict.fromkeys(stage for stage, _ in counts))
        ranked = sorted(counts.items(), key=lambda item: (stages.index(item[0][0]), -item[1]))
        return [(stage, reason, count, examples[stage, reason]) for (stage, reason), count in ranked]

    def parquet(self) -> bytes:
        """A table of them."""
        import pyarrow as pa

        schema = pa.schema(
            [("stage", pa.string()), ("reason", pa.string()), ("text", pa.string()), ("sources", pa.list_(pa.string()))]
        )
        return parquet(pa.Table.from_pylist([one._asdict() for one in self.set_aside], schema))


def parquet(table: object) -> bytes:
    """An Arrow table as the bytes of a Parquet file; the same table gives the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
