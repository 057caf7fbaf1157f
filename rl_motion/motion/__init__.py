"""Skeletons, rotations, HumanML3D features, motion sentinels and the HTML viewer (no I/O, no learning)."""
