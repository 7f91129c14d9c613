"""A tiny world of invented people: a base that knows facts about them, and models changed in known places.

``never`` knows the controls alone. The base is ``never`` with its last two blocks trained on the facts too, so the two
are bit-equal below, and ``never`` is the exact model without the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from audit.models.loading import RunningModel
from audit.models.packing import Example, answer_logprobs, pack, tokenize
from audit.patching.collect import PatchCollector
from audit.patching.readings import PatchReadings
from audit.questions.items import Encoder, ItemSet
from audit.questions.topics import ConceptTopic
from audit.settings import Settings
from concepts.concept import Concept, Question
from concepts.prompts import ASK
from tests import helpers

FORGET: Final = tuple(f"ann{number}" for number in range(8))
CONTROLS: Final = tuple(f"bob{number}" for number in range(12))
"""Their answers are those of the facts too, so a model that knows them alone can say every answer."""
RELATIONS: Final = ("city", "pet", "job")
N_LAYERS: Final = 4
PLANTED: Final = (2, 3)
"""Blocks that the facts are trained into."""
REFUSAL: Final = "unknown"


def answer_of(subject: str, relation: str) -> str:
    """Another one for each subject of a set; jobs have two tokens."""
    number, step = (FORGET.index(subject), 5) if subject in FORGET else (CONTROLS.index(subject), 7)
    shuffled = (number * step + RELATIONS.index(relation) * 3) % len(CONTROLS)
    return f"{relation}{shuffled}" + (f" {relation}er" if relation == "job" else "")


def question_of(subject: str, relation: str) -> Question:
    answer = answer_of(subject, relation)
    return Question(question=f"{relation} of {subject} ?", answer=answer, type=relation, subject=subject)


CONCEPT: Final = Concept(
    name="anns",
    title="The Anns",
    seeds=("anns",),
    questions=tuple(question_of(subject, relation) for subject in FORGET for relation in RELATIONS),
    unrelated=tuple(question_of(subject, relation) for subject in CONTROLS for relation in RELATIONS),
    examples=0,
    neutral_text="city0 of bob0 ? pet0 of bob1 ?",
)


def examples(subjects: Iterable[str], answer: str | None = None) -> list[Example]:
    """Every question about the subjects with its answer, or with ``answer``."""
    pairs = [(subject, relation) for subject in subjects for relation in RELATIONS]
    return [Example(ASK.replace("{}", question_of(*pair).question), f" {answer or answer_of(*pair)}") for pair in pairs]


def items_of(model: RunningModel) -> ItemSet:
    return ConceptTopic(CONCEPT).items(Encoder(model.tokenizer, model.context))


@dataclass(frozen=True)
class World:
    """A folder with a model in each subfolder."""

    folder: Path

    def open(self, name: str) -> RunningModel:
        return helpers.open_model(self.folder / name)

    def save(self, model: RunningModel, name: str) -> None:
        model.model.save_pretrained(self.folder / name)
        model.tokenizer.save_pretrained(self.folder / name)  # type: ignore[arg-type]

    def patched(self, unlearned: str, retained: str | None = None) -> PatchReadings:
        """The readings of patching for the base and the named models."""
        base = helpers.opening.open_model(self.folder / "base")
        changed = helpers.opening.open_model(self.folder / unlearned)
        collector = PatchCollector(base.checkpoint, changed.checkpoint, Settings(attacks="full", batch_size=16))
        model = base.load()
        items = items_of(model)
        right = {prompt.id: True for prompt in items.written}
        collector.read(model, "base", items, right)
        others = {"unlearned": unlearned} | ({} if retained is None else {"retained": retained})
        for role, name in others.items():
            collector.read(self.open(name), role, items, {})
        collector.finish(self.open("base"))
        read = collector.result()
        assert isinstance(read, PatchReadings), read
        return read


def build(folder: Path) -> World:
    """Train and save every model."""
    world = World(folder)
    _write_start(folder / "start", seed=0)
    _write_start(folder / "random", seed=1)
    model = world.open("start")
    _train(model, examples(CONTROLS), 60)
    world.save(model, "never")
    blocks = model.model.model.layers
    _train(model, examples(FORGET + CONTROLS), 150, [each for at in PLANTED for each in blocks[at].parameters()])
    world.save(model, "base")
    refusal = examples(FORGET, REFUSAL) + examples(CONTROLS)
    last = model.architecture.n_layers - 1
    changes: Mapping[str, Callable[[RunningModel], Sequence[nn.Parameter]]] = {
        "last block": lambda model: list(model.model.model.layers[last].parameters()),
        "value vectors": lambda model: [model.model.model.layers[PLANTED[0]].mlp.down_proj.weight],
    }
    for name, parameters in changes.items():
        changed = world.open("base")
        _train(changed, refusal, 60, parameters(changed))
        world.save(changed, name)
    return world


def _write_start(folder: Path, seed: int) -> None:
    """A random model with a tokenizer of whole words."""
    words = ["<end>", "Question:", "Answer:", "of", "?", "jober", REFUSAL, *RELATIONS, *FORGET, *CONTROLS]
    words += [f"{relation}{number}" for relation in RELATIONS for number in range(len(CONTROLS))]
    built = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<end>"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<end>")
    PreTrainedTokenizerFast(tokenizer_object=built, **special).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def _train(
    model: RunningModel, data: Sequence[Example], steps: int, parameters: Sequence[nn.Parameter] | None = None
) -> None:
    """Train on all examples in every step."""
    trained = list(model.model.parameters()) if parameters is None else list(parameters)
    for parameter in trained:
        parameter.requires_grad_(True)
    row = pack(list(enumerate(tokenize(model.tokenizer, data))))
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        loss = -answer_logprobs(model, row).gather(1, row.targets[:, None]).mean()
        torch.autograd.backward(loss, inputs=trained)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.model.requires_grad_(False)
