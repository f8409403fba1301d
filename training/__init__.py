"""Training: data sets, tokenizer, self-supervision and the score stage."""
