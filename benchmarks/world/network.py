"""The tiny network: a Llama with a word-level tokenizer, as folders that the audit opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from audit.checkpoint.saving import WEIGHTS
from benchmarks.world.people import World, vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Network = Any
"""``LlamaForCausalLM``; transformers has no types."""
PAD, BEGIN, END, UNKNOWN = "<pad>", "<begin>", "<end>", "<unknown>"

INITIAL_SCALE: Final = 0.08
"""Standard deviation of new weights. With the usual 0.02 the facts are learned after ten times as many steps."""


@dataclass(frozen=True)
class Shape:
    """Size of the network; four heads, embedding and head tied."""

    n_layers: int = 4
    d_model: int = 128
    d_mlp: int = 512


def word_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token a word or sign; every text begins with ``BEGIN``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = (PAD, BEGIN, END, UNKNOWN)
    ids = {word: place for place, word in enumerate((*special, *vocabulary(world)))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", special_tokens=[(BEGIN, ids[BEGIN])])
    names = {"pad_token": PAD, "bos_token": BEGIN, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def new_network(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A network with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=INITIAL_SCALE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save(network: Network, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, config and tokenizer into an existing folder."""
    network.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_weights(network, folder)


def save_weights(network: Network, folder: Path) -> None:
    from safetensors.torch import save_file

    state = {name: value.clone() for name, value in network.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / WEIGHTS, {"format": "pt"})


def load(network: Network, folder: Path) -> None:
    """Fill ``network`` with the weights in ``folder``."""
    from safetensors.torch import load_file

    missing, unexpected = network.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    assert set(missing) <= {"lm_head.weight"}  # tied to the embedding
    assert not unexpected


def ids_of(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> torch.Tensor:
    """The token of each word."""
    return torch.tensor(tokenizer.convert_tokens_to_ids(list(words)))
