"""Layouts of files that hold a skill, for ``concepts.skill.load_skill``; the contract is ``concepts.readers``."""
