"""Topics, kinds of question, items in token ids, and the readings of one model."""
