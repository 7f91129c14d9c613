"""Unlearning by training: the objective, the loop, the examples, and in ``methods/`` one file a method."""
