"""The loop, its backends and the commit; the only package that imports ray."""
