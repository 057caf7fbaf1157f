"""Motion-text datasets and the embedded world."""
