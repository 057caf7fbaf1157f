"""All of HumanML3D's public captions become a pool; skipped where they are not at hand, as the project has no copy."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from rl_motion.prompts.build import Settings, build
from rl_motion.prompts.grammar import GrammarAuthor
from rl_motion.prompts.reading import meaning


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_34076_captions_become_20000_prompts(tmp_path: Path, root: Path, shared_dir: Path) -> None:
    captions = shared_dir / "data" / "humanml3d_text" / "captions.jsonl"
    started = time.monotonic()
    built = build(Settings((str(captions),)), tmp_path / "pool", GrammarAuthor(), lambda *_: None)
    assert time.monotonic() - started < 600
    rows = built.table.rows
    assert built.table.info["counts"]["captions"] == 34_076 and len(rows) == 20_000
    assert len({row.operation for row in rows}) >= 5
    assert max(Counter(tuple(sorted(set(row.metas))) for row in rows).values()) <= 3
    assert len({meaning(row.text) for row in rows}) == len(rows) == len({row.id for row in rows})
    page = (root / "docs" / "prompts.md").read_text(encoding="utf-8")
    published = re.findall(r"^\| \d+ \| (.+?) \| [\d.]+ \| .*\|$", page, re.MULTILINE)
    drawn = random.Random(1).sample(rows, 100)
    assert published == [row.text for row in drawn], "the hundred of the docs are those of this pool"
