"""Label-agnostic forgetting: representations leave the plane of what is to be forgotten (LAF, arXiv 2404.00506).

``L = E_r psi(e) - E_f psi(e_f) + E_r c - log E_f exp(c / tau) + retain_weight * retain`` (Shen et al. 2024) for
retained examples ``r`` and those to forget ``f``, with ``psi(u) = exp(u / (u + 1))``. A representation is the residual
stream after one block, averaged over the answer's tokens, less the mean of all examples and in units of their spread.
``e`` is its squared distance from the plane of the first principal components of all examples, ``e_f`` from that of the
examples to forget alone, and ``c`` is 1 minus its cosine with what it was before training.

Principal components take the place of the paper's variational autoencoders, means that of its sums, which depend on the
size of a batch, one update that of its two for each batch, and the retain term that of its repair of the last layer.
Trained are the matrices of the blocks up to the one that is read. It forgets by moving away, towards a cosine of -1,
and not towards ignorance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from audit.errors import AuditError
from audit.models.loading import RunningModel
from audit.models.packing import Example, Tokens
from audit.progress import SILENT, Progress
from audit.unlearning.objective import Extras, Scores, train_all
from audit.unlearning.parameters import block_matrices
from audit.unlearning.streams import Streams, layer_at
from audit.unlearning.training import Record, TrainingSettings, prepare, require_positive, rows_of, unused

TITLE = "Label-agnostic forgetting"


@dataclass(frozen=True)
class LAFSettings(TrainingSettings):
    """Settings of LAF.

    Attributes:
        layer: the block after which the stream is read; -1 for the one at half the depth.
        rank: number of principal components.
        tau: temperature; the larger, the less the examples to forget are turned away from what they were.
    """

    steps: int = 60
    learning_rate: float = 1e-4
    retain_weight: float = 1.0
    lora_rank: int = unused(0)
    layer: int = -1
    rank: int = 8
    tau: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "retain_weight", "rank", "tau")


SETTINGS = LAFSettings()


def unlearn(
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: LAFSettings = SETTINGS,
    progress: Progress = SILENT,
) -> Record:
    """Train the matrices of the lower blocks of ``model``, in place.

    Raises:
        AuditError: there is no such layer, or there are too few examples to forget; or see ``objective.train_all``.
        ModelError: see ``objective.train_all``.
    """
    layer = layer_at(model, settings.layer, 1 / 2)
    answers, held = prepare(model, forget, retain, needs_retain=True)
    if len(forget) < settings.rank + 2:
        raise AuditError(
            f"{len(forget)} examples to forget all lie in a plane of rank {settings.rank}: they cannot leave it.",
            hint=f"Give at least {settings.rank + 2} examples, or a lower rank.",
        )
    before = _representations(model, layer, [*answers, *held], settings, progress)
    objective = _Loss(model, layer, before, len(answers), settings)
    extras = Extras(forward=objective.streams.forward, parameters=[*block_matrices(model, layer + 1).values()])
    chosen = replace(settings, layer=layer)
    record = train_all("laf", objective.loss, model, forget, retain, chosen, progress, extras)
    return replace(record, changed={"matrices_of_layers": [*range(layer + 1)]})


@dataclass(frozen=True)
class Plane:
    """The affine plane of the first principal components of some representations."""

    mean: Float[Tensor, " d_model"]
    components: Float[Tensor, "rank d_model"]

    @classmethod
    def fit(cls, representations: Float[Tensor, "n d_model"], rank: int) -> Plane:
        mean = representations.mean(dim=0)
        _, _, directions = torch.linalg.svd(representations - mean, full_matrices=False)
        return cls(mean, directions[:rank])

    def errors(self, representations: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Squared distance of each from the plane."""
        centred = representations - self.mean
        return (centred - centred @ self.components.T @ self.components).square().sum(dim=1)


def unlearning_loss(retained: Float[Tensor, " n"], forgotten: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """``E psi`` of the retained examples' errors less that of the others' errors; ``psi`` rises from 1 to 2.718."""
    return _psi(retained).mean() - _psi(forgotten).mean()


def alignment_loss(retained: Float[Tensor, " n"], forgotten: Float[Tensor, " m"], tau: float) -> Float[Tensor, ""]:
    """Of ``1 - cos`` with what was before: small for retained examples, and large for the others unless ``tau`` is."""
    return retained.mean() - (forgotten / tau).exp().mean().log()


def _psi(errors: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return (errors / (errors + 1)).exp()


class _Loss:
    """The loss on the row that was run last, of which the examples to forget come first."""

    def __init__(
        self, model: RunningModel, layer: int, before: Float[Tensor, "n d_model"], n_forget: int, settings: LAFSettings
    ) -> None:
        self.streams, self.layer, self.tau = Streams(model, [layer]), layer, settings.tau
        self.mean = before.mean(dim=0)
        self.spread = (before - self.mean).square().sum(dim=1).mean().sqrt()
        self.before = self._scaled(before)
        self.all = Plane.fit(self.before, settings.rank)
        self.own = Plane.fit(self.before[:n_forget], settings.rank)

    def loss(self, scores: Scores) -> tuple[Tensor, dict[str, float]]:
        n_forget = len(scores.now)
        now = self._scaled(_answer_means(self.streams, self.layer))
        turned = 1 - torch.cosine_similarity(now, self.before[[*self.streams.row.examples]], dim=1)
        errors, kept_errors = self.own.errors(now[:n_forget]), self.all.errors(now[n_forget:])
        loss = unlearning_loss(kept_errors, errors) + alignment_loss(turned[n_forget:], turned[:n_forget], self.tau)
        readings = {"error": errors.mean().item(), "retained_error": kept_errors.mean().item()}
        return loss, {**readings, "turned": turned[:n_forget].mean().item()}

    def _scaled(self, representations: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        return (representations - self.mean) / self.spread


def _representations(
    model: RunningModel, layer: int, examples: Sequence[Tokens], settings: LAFSettings, progress: Progress
) -> Float[Tensor, "n d_model"]:
    streams, found = Streams(model, [layer]), []
    with torch.no_grad():
        for row in rows_of(examples, settings.forget_batch + settings.retain_batch, progress):
            streams.forward(row)
            found.append(_answer_means(streams, layer))
    return torch.cat(found)


def _answer_means(streams: Streams, layer: int) -> Float[Tensor, "n d_model"]:
    """The stream of the row that was run last, averaged over the tokens at which each answer is predicted."""
    scored = streams.after[layer][streams.row.scored]
    return torch.stack([own.mean(dim=0) for own in streams.row.by_example(scored)])
