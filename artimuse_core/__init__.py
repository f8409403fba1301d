"""Scoring itself: tokens, prompts, images, engines and the scorer. Knows nothing of its users."""
