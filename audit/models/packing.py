"""Several examples in one row (``token_tree``), with the places at which their answers are scored or trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audit.errors import AuditError, ModelError
from audit.models.loading import RunningModel
from audit.models.token_tree import token_tree
from audit.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that is scored or trained after it.

    Attributes:
        answer: includes the space that begins it.
        subject: the words of the prompt that name what it is about, where a method needs them; empty if unknown.
    """

    prompt: str
    answer: str
    subject: str = ""


@dataclass(frozen=True)
class Tokens:
    """One example in token ids; only the answer's tokens are scored."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token, which is only predicted."""
        return self.prompt + self.answer[:-1]


@dataclass(frozen=True)
class Pack:
    """One row of ``n`` tokens that holds some examples.

    Attributes:
        examples: index of each example in the list that it was taken from.
        mask: 0 where a token may look and -inf elsewhere.
        paths: for each example, the places of its input tokens in the row, in order.
        scored: places in the row whose next token belongs to an answer, example after example.
        targets: those answer tokens.
        owner: which of ``examples`` (0, 1, ...) each of them belongs to.
    """

    examples: tuple[int, ...]
    ids: Int[Tensor, "1 n"]
    positions: Int[Tensor, "1 n"]
    mask: Float[Tensor, "1 1 n n"]
    paths: tuple[Int[Tensor, " _"], ...]
    scored: Int[Tensor, " m"]
    targets: Int[Tensor, " m"]
    owner: Int[Tensor, " m"]

    @property
    def lengths(self) -> Int[Tensor, " examples"]:
        """Number of tokens of each example's answer."""
        return torch.bincount(self.owner, minlength=len(self.examples))

    def answer_sums(self, logprobs: Float[Tensor, "m d_vocab"]) -> Float[Tensor, " examples"]:
        """Log-probability of each example's whole answer, in nats: the sum over its tokens."""
        return self.sums(logprobs.gather(1, self.targets[:, None])[:, 0])

    def sums(self, values: Float[Tensor, " m"]) -> Float[Tensor, " examples"]:
        """The sum over each example's answer of one value for each of its tokens."""
        return torch.zeros(len(self.examples), dtype=values.dtype).index_add(0, self.owner, values)

    def by_example(self, values: Float[Tensor, "m width"]) -> tuple[Float[Tensor, "_ width"], ...]:
        """``values`` at the scored places, those of each example apart."""
        return torch.split(values, torch.bincount(self.owner, minlength=len(self.examples)).tolist())


def encode(tokenizer: Tokenizer, example: Example, special_tokens: bool = True) -> Tokens:
    """Prompt and answer encoded together, as a model reads them; every answer is trained and scored in these tokens.

    The prompt's tokens are those with which the prompt alone begins too. A token that merges the end of the prompt with
    the answer belongs to the answer. The answer is not encoded alone: tokenizers that prepend a space to any text
    (SentencePiece) give it another first token. Either part is empty if it has no token.

    Args:
        special_tokens: whether the tokenizer adds its own; a chat template has written them into the prompt.
    """
    texts = (example.prompt, example.prompt + example.answer)
    alone, together = (tokenizer(text, add_special_tokens=special_tokens)["input_ids"] for text in texts)
    differs = (at for at, (one, other) in enumerate(zip(alone, together, strict=False)) if one != other)
    end = next(differs, min(len(alone), len(together)))
    return Tokens(tuple(together[:end]), tuple(together[end:]))


def tokenize(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Tokens]:
    """Token ids of each example (``encode``).

    Raises:
        AuditError: an example's prompt or answer is empty.
    """
    encoded = []
    for example in examples:
        tokens = encode(tokenizer, example)
        if not tokens.prompt or not tokens.answer:
            raise AuditError(f"the example {example.prompt!r} / {example.answer!r} has an empty prompt or answer.")
        encoded.append(tokens)
    return encoded


def pack(examples: Sequence[tuple[int, Tokens]]) -> Pack:
    """One row that holds ``examples``, each with its index."""
    tree = token_tree(tokens.inputs for _, tokens in examples)
    paths = zip(tree.paths, examples, strict=True)
    return Pack(
        examples=tuple(index for index, _ in examples),
        ids=tree.ids,
        positions=tree.positions,
        mask=tree.mask,
        paths=tree.paths,
        scored=torch.cat([path[-len(tokens.answer) :] for path, (_, tokens) in paths]),
        targets=torch.tensor([token for _, tokens in examples for token in tokens.answer]),
        owner=torch.tensor([place for place, (_, tokens) in enumerate(examples) for _ in tokens.answer]),
    )


def in_rows(examples: Sequence[Tokens], per_row: int) -> Iterator[Pack]:
    """``examples`` in rows of at most ``per_row``, in order, each with its index."""
    numbered = [*enumerate(examples)]
    for start in range(0, len(numbered), per_row):
        yield pack(numbered[start : start + per_row])


def answer_loss(model: RunningModel, row: Pack) -> Float[Tensor, ""]:
    """Mean loss of the answers' tokens in ``row``, in nats; see ``answer_logprobs``."""
    return -answer_logprobs(model, row).gather(1, row.targets[:, None]).mean()


def answer_logprobs(model: RunningModel, row: Pack) -> Float[Tensor, "m d_vocab"]:
    """Log-probabilities over the vocabulary at every scored place of ``row``, in float32, on the CPU.

    Log-probabilities do not depend on a constant added to all logits, which raw logits do.

    Raises:
        ModelError: an example is longer than the model, or one of its layers, can look back; or the model counts
            positions from the attention mask (ALiBi), which would be wrong for packed examples.
    """
    if model.alibi:
        raise ModelError(
            f"{model.architecture.name} here counts positions from the attention mask (ALiBi): it cannot be trained.",
            hint="Audit it, or edit value vectors with a method that does not train.",
        )
    longest = max(len(path) for path in row.paths)
    if longest > model.span:
        raise ModelError(
            f"an example of {longest} tokens exceeds the model's {model.span}.", hint="Give shorter examples."
        )
    dtype = next(model.model.parameters()).dtype
    logits = model.model(
        input_ids=row.ids.to(model.device),
        attention_mask=row.mask.to(model.device, dtype),
        position_ids=row.positions.to(model.device),
        logits_to_keep=row.scored.to(model.device),
        use_cache=False,
    ).logits
    return torch.log_softmax(logits[0].float(), dim=-1).cpu()
