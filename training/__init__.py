"""Training: data sets, the two stages, evaluation; nano's tokenizer and recipe."""
