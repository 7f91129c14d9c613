"""Unlearning by training: objective, training loop, training examples; ``methods/`` has one file a method."""
