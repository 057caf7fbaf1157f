"""What motions can be written as. Names alone: the command line reads them without loading anything."""

from __future__ import annotations

from enum import StrEnum


class Export(StrEnum):
    """A format by its file's ending."""

    HTML = "html"
    NPY = "npy"
    NPZ = "npz"
    BVH = "bvh"
    GLB = "glb"
    GIF = "gif"
    MP4 = "mp4"


OF_ALL = (Export.HTML, Export.NPY, Export.NPZ)
"""Formats whose one file holds every motion; of the others each motion has its own."""
WITH_SKELETON = (Export.BVH, Export.GLB)
"""Formats of rigid bones."""
