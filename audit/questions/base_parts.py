"""What is kept of the base for attacks on its versions: mean states and embeddings at the facts' questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.forward import Row, run
from audit.models.loading import RunningModel
from audit.models.tokenizer import Tokenizer
from audit.questions.items import Prompt


@dataclass(frozen=True, eq=False)
class BaseParts:
    """Parts of the base, on the CPU.

    Attributes:
        residual: half of the subjects -> mean over their questions of the residual stream after each block, at the last
            token ``[n_layers, d_model]`` float32; a half without questions has none.
        token_ids: the tokens of the subjects, ascending.
        embedded: output of the embedding for each of them.
    """

    residual: Mapping[int, Float[Tensor, "n_layers d_model"]]
    token_ids: tuple[int, ...]
    embedded: Float[Tensor, "n_tokens d_model"]

    @classmethod
    def of(
        cls, base: RunningModel, prompts: Sequence[Prompt], half: Mapping[str, int], batch_size: int = 16
    ) -> BaseParts:
        """Read from ``base`` at the facts' questions.

        Args:
            half: subject -> 0 or 1.
        """
        states = last_states(base, prompts, batch_size)
        ids = subject_tokens(prompts, base.tokenizer)
        with torch.inference_mode():
            embedded = base.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=base.device))
        return cls(half_means(states, prompts, half), ids, embedded.cpu().clone())


def last_states(
    model: RunningModel, prompts: Sequence[Prompt], batch_size: int = 16
) -> Float[Tensor, "n_prompts n_layers d_model"]:
    """Residual stream after each block at the last token of each prompt, float32."""
    architecture = model.architecture
    states = torch.empty(len(prompts), architecture.n_layers, architecture.d_model)
    for batch in run(model, [Row(prompt.ids, len(prompt.ids) - 1) for prompt in prompts], batch_size):
        states[list(batch.rows)] = batch.residual.transpose(0, 1)
    return states


def half_means(
    states: Float[Tensor, "n_prompts n_layers d_model"], prompts: Sequence[Prompt], half: Mapping[str, int]
) -> dict[int, Float[Tensor, "n_layers d_model"]]:
    """Half of the subjects -> mean over its questions; only halves that have some."""
    members = {number: [half[prompt.subject] == number for prompt in prompts] for number in (0, 1)}
    return {number: states[torch.tensor(chosen)].mean(dim=0) for number, chosen in members.items() if any(chosen)}


def subject_tokens(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of the prompts that spell their subjects, with or without a space before them; ascending."""
    tokens: set[int] = set()
    for prompt in prompts:
        for text in (prompt.subject, f" {prompt.subject}"):
            tokens |= set(prompt.ids).intersection(tokenizer(text, add_special_tokens=False)["input_ids"])
    return tuple(sorted(tokens))
