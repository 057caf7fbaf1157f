"""Names of the embedded worlds' splits; light, for those who only tell them from files."""

from __future__ import annotations

import re

SPLIT = re.compile(r"(source|target|first|second)/(train|val|test)")
"""A source of prompts that is part of the embedded worlds; all others are pools or text files."""
