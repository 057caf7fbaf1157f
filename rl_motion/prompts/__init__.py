"""The text-only prompt pool."""
