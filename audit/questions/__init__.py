"""What models are asked: topics, kinds of question, items in token ids, and the readings of one model."""
