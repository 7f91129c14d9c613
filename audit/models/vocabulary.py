"""A model's vocabulary as words: what ``concepts.tokens`` needs to find the tokens of a concept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from audit.models.tokenizer import Tokenizer
from concepts.tokens import Lexicon


@dataclass(frozen=True)
class TokenizerVocabulary:
    """The text of single tokens; a ``concepts.tokens.Vocabulary``.

    Attributes:
        size: rows of the head, which may be more than the tokenizer has tokens.
    """

    tokenizer: Tokenizer
    size: int

    def decode_one(self, token: int) -> str:
        """The token's text with its white space; empty for a row that pads the head."""
        piece = self.tokenizer.convert_ids_to_tokens(token) if token < len(self.tokenizer) else None
        if piece is None:
            return ""
        if "▁" in piece:  # SentencePiece writes the space so, and decode() drops the first one
            return piece.replace("▁", " ")
        return self.tokenizer.decode([token])


@lru_cache(maxsize=2)
def lexicon_of(tokenizer: Tokenizer, size: int) -> Lexicon:
    """The words that are single tokens; decoding a whole vocabulary takes a moment, so the last two are kept."""
    return Lexicon(TokenizerVocabulary(tokenizer, size))
