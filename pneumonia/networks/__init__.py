"""What learns: the two networks, their registry, and their initial weights."""
