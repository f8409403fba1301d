"""From a checkpoint to an artifact that scores without torch."""
