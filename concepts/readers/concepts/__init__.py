"""Layouts of files that hold a concept, for ``concepts.concept.load_concept``; the contract is ``concepts.readers``."""
