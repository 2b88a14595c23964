"""Files: written whole, and checkpoints."""
