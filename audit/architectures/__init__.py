"""Model families: one TOML file for each, and the check that a checkpoint is a complete model of one of them."""

from audit.architectures.architecture import Architecture, Piece
from audit.architectures.config import Config
from audit.architectures.family import Family, GgufNames, Template, families
from audit.architectures.identify import identify, why_unknown

__all__ = ["Architecture", "Config", "Family", "GgufNames", "Piece", "Template", "families", "identify", "why_unknown"]
