"""How the shipped model was made: corpus, tokenizer, training, export, evaluation."""
