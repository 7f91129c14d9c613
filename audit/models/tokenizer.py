"""What the audit uses of a tokenizer as transformers loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes:
        eos_token_id: the token that ends a text, ``None`` where the vocabulary has none.
        chat_template: ``None`` if there is none.
    """

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def chat_template(self) -> object: ...

    def __hash__(self) -> int: ...

    def __len__(self) -> int:
        """Number of tokens; the model's head may have more rows."""

    def __call__(self, text: str, /, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        """``"input_ids"`` of ``text``, with the family's special tokens (BOS) by default."""

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        /,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **variables: object,
    ) -> str:
        """The messages as one text, with all special tokens. ``tokenize`` must be false.

        Args:
            add_generation_prompt: whether the text ends where the assistant's answer begins.
        """

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str: ...

    def convert_ids_to_tokens(self, token_id: int, /) -> str | None:
        """One token as the vocabulary spells it, with its marker of white space."""

    def get_vocab(self) -> Mapping[str, int]:
        """Every token as the vocabulary spells it, and its id."""

    def save_pretrained(self, folder: Path, /) -> object: ...
