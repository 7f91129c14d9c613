"""Masquerade: what is to be forgotten looks like something that the model never heard of (after arXiv 2509.15631).

``L = E_t |h_t - h_t,unknown|^2 / E_t |h_t,before - h_t,unknown|^2 + retain_weight * retain`` over the residual stream
after one block, from the subject of a prompt to the answer's end. The unknown stream is that of the same text about an
invented name, before training. Yamashita et al. (2025) move the activations of a subject towards those of unknown
entities in the space of a sparse autoencoder; here the stream itself is moved, which needs none. Trained are the
matrices of the blocks up to the one that is read.

A name is made of random syllables, one for each subject, with as many words and no fewer tokens. Prompts that do not
name their subject are left out, and what can be answered without the subject is not forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError
from audit.models.forward import shared_prefix
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens, tokenize
from audit.models.tokenizer import Tokenizer
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.parameters import block_matrices
from audit.unlearning.streams import Streams, layer_at, streams_of
from audit.unlearning.training import Record, TrainingSettings, prepare, unused

TITLE = "Masquerade as an unknown entity"
SYLLABLES: Final = tuple(f"{first}{vowel}" for first in "bdfgklmnprstvz" for vowel in "aeiou")
SHORTEST, LONGEST = 3, 12
"""Syllables of an invented word."""


@dataclass(frozen=True)
class MasqueradeSettings(TrainingSettings):
    """Settings of the masquerade.

    Attributes:
        layer: the block after which streams are compared; -1 for the one at half the depth.
    """

    steps: int = 60
    learning_rate: float = 1e-4
    lora_rank: int = unused(0)
    layer: int = -1


SETTINGS = MasqueradeSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: MasqueradeSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the matrices of the lower blocks of ``model``, in place.

    Raises:
        AuditError: there is no such layer, or no prompt to forget names its subject; or see ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    layer = layer_at(model, settings.layer, 1 / 2)
    named = [example for example in forget if example.subject and example.subject in example.prompt]
    if forget and not named:
        raise AuditError("no prompt to forget names its subject.", hint="Reword them, or choose another method.")
    answers, _ = prepare(model, named, retain, settings.retain_weight > 0)
    names = invented_names((example.subject for example in named), model.tokenizer, Random(settings.seed))
    renamed = [replace(each, prompt=each.prompt.replace(each.subject, names[each.subject])) for each in named]
    unknown = tokenize(model.tokenizer, renamed)
    size = settings.forget_batch + settings.retain_batch
    before = streams_of(model, layer, [*answers, *unknown], size, progress)
    targets = [*map(Target.of, answers, unknown, before[: len(answers)], before[len(answers) :])]
    masquerade = _Masquerade(model, layer, targets)
    extras = Extras(forward=masquerade.streams.forward, parameters=[*block_matrices(model, layer + 1).values()])
    chosen = replace(settings, layer=layer)
    record = train_all("masquerade", masquerade.loss, model, named, retain, chosen, progress, extras)
    return replace(record, changed={"matrices_of_layers": [*range(layer + 1)], "names": names})


def invented_names(subjects: Iterable[str], tokenizer: Tokenizer, random: Random) -> Mapping[str, str]:
    """Subject -> a name of random syllables; each word has no fewer tokens than the subject's.

    It has at least two, since a word with a token of its own may be known.
    """
    return {
        subject: " ".join(_invented(word, tokenizer, random) for word in subject.split())
        for subject in dict.fromkeys(subjects)
    }


def _invented(word: str, tokenizer: Tokenizer, random: Random) -> str:
    made = random.choices(SYLLABLES, k=SHORTEST)
    while len(made) < LONGEST and _n_tokens(_cased(made, word), tokenizer) < max(2, _n_tokens(word, tokenizer)):
        made += random.choices(SYLLABLES)
    return _cased(made, word)


def _cased(syllables: Sequence[str], word: str) -> str:
    return "".join(syllables).capitalize() if word[0].isupper() else "".join(syllables)


def _n_tokens(word: str, tokenizer: Tokenizer) -> int:
    return len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Target:
    """What an example is made to look like, at its last ``n`` tokens, from the subject on.

    Attributes:
        before, unknown: the stream there before training, and that of the example about the invented name.
    """

    before: Float[Tensor, "n d_model"]
    unknown: Float[Tensor, "n d_model"]

    @classmethod
    def of(cls, known: Tokens, unknown: Tokens, before: Tensor, stream: Tensor) -> Target:
        """From both examples and their streams; tokens correspond from the end, as a name may have more of them."""
        n_shared = len(shared_prefix([known.inputs, unknown.inputs]))
        n_tokens = min(len(before), len(stream)) - n_shared
        return cls(before[len(before) - n_tokens :], stream[len(stream) - n_tokens :])


class _Masquerade:
    """The loss on the row that was run last, of which the examples to forget come first."""

    def __init__(self, model: RunningModel, layer: int, targets: Sequence[Target]) -> None:
        self.streams, self.layer, self.targets = Streams(model, [layer]), layer, targets
        self.scale = torch.cat([(each.before - each.unknown).square() for each in targets]).mean()

    def loss(self, scores: Scores) -> tuple[Tensor, dict[str, float]]:
        """The squared distance from the unknown that is left; 1 before training."""
        row = self.streams.row
        stream, differences = self.streams.after[self.layer], []
        for index, path in zip(row.examples[: len(scores.now)], row.paths, strict=False):
            unknown = self.targets[index].unknown
            differences.append(stream[path[len(path) - len(unknown) :]] - unknown)
        distance = torch.cat(differences).square().mean() / self.scale
        return distance, {"distance": distance.item()}
