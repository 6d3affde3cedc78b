"""NIR: files, the graph's meaning as a network, and what NIR lacks."""
