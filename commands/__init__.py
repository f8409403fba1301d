"""Commands of ``artimuse``; they may import every room, inside their functions."""
