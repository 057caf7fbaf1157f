"""Motion files of other programs: read, matched to the 22 joints, and what was wrong with them said."""
