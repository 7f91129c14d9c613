"""The objective of the gradient methods: a loss on the answers to forget, a retain term, and the order of batches.

A method gives the forget loss; everything else is the same for all, so that methods can be compared. The reference is
the model before its first step; it is read once, so that only one model is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audit.models.loading import RunningModel
from audit.models.packing import Example, Pack, Tokens, answer_logprobs, pack, tokenize
from audit.progress import SILENT, Progress
from audit.unlearning.parts import adapted_modules, adapters
from audit.unlearning.training import (
    After,
    Record,
    TrainingSettings,
    batches_of_both,
    minimise,
    prepare,
    rows_of,
    trainable,
)

Forward = Callable[[Pack], Tensor]
"""A row of examples -> log-probabilities ``[m, d_vocab]`` at its scored positions."""


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens of the answers in a batch of examples to forget, one after the other.

    Attributes:
        logprobs: the model's distribution where each of them is predicted, in nats.
        targets: the tokens themselves.
        owner: which answer each belongs to (0, 1, ...); its tokens are in order.
        before: ``logprobs`` before training; ``None`` unless the method asks for it.
    """

    logprobs: Float[Tensor, "m d_vocab"]
    targets: Int[Tensor, " m"]
    owner: Int[Tensor, " m"]
    before: Float[Tensor, "m d_vocab"] | None = None

    @property
    def chosen(self) -> Float[Tensor, " m"]:
        """Log-probability of each token of the answers."""
        return self.logprobs.gather(1, self.targets[:, None])[:, 0]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the answers in a batch of examples to forget, in nats, summed over each answer's tokens.

    Attributes:
        now, reference: of the model in training, and before training; the first answer is the one to forget, the second
            (if the method has one) the preferred one.
        lengths: number of tokens of the answer to forget.
        tokens: those of all the answers.
    """

    now: Float[Tensor, "n n_answers"]
    reference: Float[Tensor, "n n_answers"]
    lengths: Int[Tensor, " n"]
    tokens: AnswerTokens

    @property
    def log_ratios(self) -> Float[Tensor, "n n_answers"]:
        return self.now - self.reference


Reweight = Callable[[float, float], float]
"""The retain term's weight and its value at a step -> the weight at the next."""
ForgetLoss = Callable[[Scores], tuple[Tensor, dict[str, float]]]
"""The loss of a batch, and the numbers to record."""


@dataclass(frozen=True)
class Extras:
    """What some methods need beside their loss.

    Attributes:
        preferred: for each example to forget the prompt with the preferred answer; empty if the method has none.
        needs_before: whether the loss reads ``AnswerTokens.before``.
        reweight: see ``Objective``.
        after: what else is done to the weights after each update.
        forward: in place of ``answer_logprobs``.
        parameters: those to train; all by default.
    """

    preferred: Sequence[Example] = ()
    needs_before: bool = False
    reweight: Reweight | None = None
    after: After | None = None
    forward: Forward | None = None
    parameters: Sequence[nn.Parameter] | None = None


@dataclass
class Objective:
    """Forget loss and retain term of a batch, which depend on nothing but the batch, the model and ``state``.

    Examples are numbered: first all answers of each example to forget, in order, then those to retain.

    Attributes:
        reference_sums: log-probability of each answer to forget before training.
        distributions: example -> the model's distribution before training at its answer ``[n_tokens, d_vocab]``: of the
            retained ones for a KL term, and of those to forget where the loss asks for them.
        reweight: changes the retain term's weight after each step; ``None`` if it stays as it is.
    """

    loss: ForgetLoss
    forward: Forward
    tokens: list[Tokens]
    n_forget: int
    n_answers: int
    settings: TrainingSettings
    reference_sums: Float[Tensor, " n_answers_to_forget"]
    distributions: Mapping[int, Tensor]
    reweight: Reweight | None = None

    @classmethod
    def start(
        cls,
        loss: ForgetLoss,
        forward: Forward,
        forget: Sequence[Sequence[Tokens]],
        retain: Sequence[Tokens],
        settings: TrainingSettings,
        progress: Progress,
        extras: Extras = Extras(),
    ) -> Objective:
        """Read the reference from the model; ``forget`` has each example with all of its answers."""
        n_answers = len(forget[0])
        answers = [tokens for example in forget for tokens in example]
        everything = [*answers, *(retain if settings.retain_weight else ())]
        sums: list[Tensor] = []
        distributions: dict[int, Tensor] = {}
        size = settings.forget_batch + settings.retain_batch
        with torch.no_grad():
            for row in rows_of(everything, size, progress):
                logprobs = forward(row)
                sums.append(row.answer_sums(logprobs))
                distributions |= {
                    index: own.clone()
                    for index, own in zip(row.examples, row.by_example(logprobs), strict=True)
                    if (settings.retain_loss == "kl" if index >= len(answers) else extras.needs_before)
                }
        reference = torch.cat(sums)[: len(answers)]
        return cls(
            loss, forward, everything, len(forget), n_answers, settings, reference, distributions, extras.reweight
        )

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        self._weight = torch.tensor(self.settings.retain_weight, dtype=torch.float64)
        first = self.n_forget * self.n_answers
        n_retain = len(self.tokens) - first
        self.batches = batches_of_both(self.n_forget, n_retain, self.settings, generator, first)

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What the steps change."""
        return (self._weight,)

    def step(self, batches: tuple[list[int], list[int]]) -> tuple[Tensor, dict[str, float]]:
        """Loss of one of ``batches``, and the numbers to record: the method's own, ``log_ratio`` and ``retain``."""
        batch, retain = batches
        forget = [index * self.n_answers + answer for index in batch for answer in range(self.n_answers)]
        row = pack([(index, self.tokens[index]) for index in (*forget, *retain)])
        logprobs = self.forward(row)
        shape = (len(batch), self.n_answers)
        scores = Scores(
            now=row.answer_sums(logprobs)[: len(forget)].view(shape),
            reference=self.reference_sums[forget].view(shape),
            lengths=torch.tensor([len(self.tokens[index].answer) for index in forget[:: self.n_answers]]),
            tokens=self._answer_tokens(row, logprobs, forget),
        )
        loss, readings = self.loss(scores)
        readings["log_ratio"] = scores.log_ratios[:, 0].mean().item()
        if retain:
            held = self._retain_term(row, logprobs, len(forget))
            loss = loss + self._weight.item() * held
            readings["retain"] = held.item()
            if self.reweight is not None:
                readings["retain_weight"] = self._weight.item()
                self._weight.fill_(self.reweight(self._weight.item(), held.item()))
        return loss, readings

    def _answer_tokens(self, row: Pack, logprobs: Float[Tensor, "m d_vocab"], forget: Sequence[int]) -> AnswerTokens:
        own = slice(int((row.owner < len(forget)).sum()))  # they come first
        before = [self.distributions[index] for index in forget if index in self.distributions]
        return AnswerTokens(logprobs[own], row.targets[own], row.owner[own], torch.cat(before) if before else None)

    def _retain_term(self, row: Pack, logprobs: Float[Tensor, "m d_vocab"], n_forget: int) -> Float[Tensor, ""]:
        """Mean over the retained answers' tokens, in nats: KL(reference || now), or the answers' cross-entropy."""
        chosen = row.owner >= n_forget
        if self.settings.retain_loss == "ce":
            return -logprobs[chosen].gather(1, row.targets[chosen][:, None]).mean()
        reference = torch.cat([self.distributions[index] for index in row.examples[n_forget:]])
        return torch.nn.functional.kl_div(logprobs[chosen], reference, log_target=True, reduction="batchmean")


def train_all(
    method: str,
    loss: ForgetLoss,
    model: RunningModel,
    forget: Sequence[Example],
    retain: Sequence[Example],
    settings: TrainingSettings,
    progress: Progress = SILENT,
    extras: Extras = Extras(),
) -> Record:
    """Train ``model``, or adapters that are then added to its weights, in place, by ``loss`` and the retain term.

    Raises:
        AuditError: see ``training.prepare``.
        ModelError: training diverged.
    """
    answers, held = prepare(model, forget, retain, settings.retain_weight > 0)
    examples = (
        [*zip(answers, tokenize(model.tokenizer, extras.preferred), strict=True)]
        if extras.preferred
        else [*zip(answers)]
    )
    read = extras.forward or partial(answer_logprobs, model)
    with trained(model, settings, extras.parameters) as (parameters, name):
        objective = Objective.start(loss, read, examples, held, settings, progress, extras)
        text, steps = f"Training {name} ({method})", (objective.batches, objective.step)
        trajectory = minimise(parameters, *steps, settings, progress, text, extras.after, objective.state)
    low_rank = {"parameters": "low rank", "rank": settings.lora_rank, "modules": adapted_modules(model)}
    return Record(
        method=method,
        settings=settings.as_json(),
        examples={"forget": len(forget), "retain": len(retain) if settings.retain_weight else 0},
        trajectory=trajectory,
        changed=low_rank if settings.lora_rank else {"parameters": "all"},
    )


@contextmanager
def trained(
    model: RunningModel, settings: TrainingSettings, chosen: Sequence[nn.Parameter] | None = None
) -> Iterator[tuple[list[nn.Parameter], str]]:
    """What may be trained inside the block, and its name: adapters, the ``chosen`` parameters, or all of them."""
    if settings.lora_rank:
        with (
            trainable(model.model, every=False),
            adapters(model, settings.lora_rank, settings.seed, merge=True) as low_rank,
        ):
            yield low_rank, f"adapters of rank {settings.lora_rank}"
        return
    with trainable(model.model, every=chosen is None):
        for parameter in chosen or ():
            parameter.requires_grad_(True)
        yield list(chosen or model.model.parameters()), "all weights" if chosen is None else "some weights"
