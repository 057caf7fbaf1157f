"""Data sets of captioned motion, one's own: imported once into Parquet, memory-mapped after.

Readers of foreign files give `Clip`s and `FileReport`s (`kinds.py` lists them), `write_dataset` makes a folder of them,
`Dataset.open` reads that folder.
"""

from __future__ import annotations

from rl_motion.data.datasets.clips import Caption, Clip, FileReport, Statistics
from rl_motion.data.datasets.dataset import ClipView, Dataset
from rl_motion.data.datasets.writing import write_dataset

__all__ = ["Caption", "Clip", "ClipView", "Dataset", "FileReport", "Statistics", "write_dataset"]
