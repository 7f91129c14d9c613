"""What a pass through a guarded model does: read prompts, or continue the sequences of the pass before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from audit.errors import ModelError
from audit.guards.sites import past_length


class Passes:
    """The passes through a model, one after the other.

    Attributes:
        reads_prompt: whether the current pass reads prompts.
        step: number of passes since the one that read the prompts.
        past: tokens of each sequence, padding included, whose keys and values are cached already.
        ids: of the current pass.
        mask: 1 at the tokens of the current pass and 0 at padding.
    """

    def __init__(self) -> None:
        self.reads_prompt = False
        self.step = 0
        self.past = 0
        self.ids: Int[Tensor, "n length"] = torch.zeros(0, 0, dtype=torch.long)
        self.mask: Shaped[Tensor, "n length"] = self.ids

    def begin(self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A new pass with these arguments."""
        ids = kwargs.get("input_ids", inputs[0] if inputs else None)
        if ids is None:
            raise ModelError("a guarded model reads token ids, not embeddings.")
        self.past = past_length(kwargs)
        self.reads_prompt = not (self.past > 0 or self._continues(ids))
        self.step = 0 if self.reads_prompt else self.step + 1
        self.ids = ids
        mask = kwargs.get("attention_mask")
        self.mask = torch.ones_like(ids) if mask is None or mask.dim() != 2 else mask[:, -ids.shape[1] :]

    def _continues(self, ids: Tensor) -> bool:
        """Without a cache every pass brings the whole sequence: that of the last pass and one token more."""
        before = self.ids
        if before.shape[0] != ids.shape[0] or ids.shape[1] != before.shape[1] + 1:
            return False
        return torch.equal(ids[:, :-1], before)
