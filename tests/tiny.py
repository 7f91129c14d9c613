"""Tiny seeded models in a temporary folder, as transformers would have saved them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.core_model_loading import revert_weight_conversion

SENTENCES = (
    "Question: What is the capital of Italy?\nAnswer: Rome\n\n",
    "Question: What is the capital of France?\nAnswer: Paris\n\n",
    "Rome, Venice and Milan are cities in Italy; Paris and Lyon are cities in France.",
    "A puppy is a young dog. February has twenty-eight days. The pancreas makes insulin.",
    "Question: Who wrote Hamlet?\nAnswer: William Shakespeare\n\n",
)
VOCABULARY = 320
"""Bytes, merges learned from ``SENTENCES``, and the end token; the trainer stops there at the latest."""

COMMON = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256, "hidden_size": 16}
CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {**COMMON, "hidden_size": 16, "intermediate_size": 40, "head_dim": 4}),
    "qwen2": (Qwen2Config, {**COMMON, "hidden_size": 16, "intermediate_size": 40}),
    "gemma3": (Gemma3TextConfig, {**COMMON, "hidden_size": 16, "intermediate_size": 40, "head_dim": 8}),
    "gemma2": (Gemma2Config, {**COMMON, "hidden_size": 16, "intermediate_size": 40, "head_dim": 8}),
    "mistral": (MistralConfig, {**COMMON, "hidden_size": 16, "intermediate_size": 40}),
    "qwen3": (Qwen3Config, {**COMMON, "hidden_size": 16, "intermediate_size": 40, "head_dim": 8}),
    "olmo2": (Olmo2Config, {**COMMON, "hidden_size": 16, "intermediate_size": 40}),
    "olmo": (OlmoConfig, {**COMMON, "hidden_size": 16, "intermediate_size": 40}),
    "phi3": (Phi3Config, {**COMMON, "hidden_size": 16, "intermediate_size": 40}),
    "gpt_neox": (GPTNeoXConfig, {**HEADS, "intermediate_size": 40}),
    "gptj": (GPTJConfig, {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 256, "rotary_dim": 4, "n_inner": 40}),
    "opt": (OPTConfig, {**HEADS, "ffn_dim": 40, "word_embed_proj_dim": 16}),
    "bloom": (BloomConfig, {"n_layer": 2, "n_head": 4, "hidden_size": 16}),
    "falcon": (FalconConfig, {**HEADS, "ffn_hidden_size": 40}),
    "mixtral": (MixtralConfig, {**COMMON, "hidden_size": 16, "intermediate_size": 8, "num_local_experts": 5}),
    "gpt2": (GPT2Config, {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 256}),
}
FAMILIES = tuple(CONFIGS)
TRAINABLE = tuple(family for family in FAMILIES if family != "bloom")
"""Those that run packed examples: positions are given, not counted."""
DENSE = tuple(family for family in FAMILIES if family != "mixtral")
"""Those without experts, whose value vectors can be edited one by one."""


def write_tiny(
    folder: Path,
    family: str = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tie: bool = True,
    **config: Any,
) -> Path:
    """A random two-layer model with config and tokenizer in ``folder``; the same arguments give the same bytes.

    Weights have a standard deviation of 0.2, ten times the usual, so that outputs clearly differ between seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _tiny_files(family, seed, dtype, tie, json.dumps(config)).items():
        (folder / name).write_bytes(content)
    return folder


@cache
def _tiny_files(family: str, seed: int, dtype: torch.dtype, tie: bool, config: str) -> dict[str, bytes]:
    """The files of one tiny model by name, built once a process for each set of arguments; ``config`` is JSON."""
    with tempfile.TemporaryDirectory() as folder:
        _save_tiny(Path(folder), family, seed, dtype, tie, json.loads(config))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _save_tiny(folder: Path, family: str, seed: int, dtype: torch.dtype, tie: bool, config: dict[str, Any]) -> None:
    config_class, sizes = CONFIGS[family]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    settings = {
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": tie,
        "initializer_range": 0.2,
        **ids,
        **sizes,
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_class(**settings)).to(dtype)
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tied = {"lm_head.weight"} if tie else set()
    kept = {name: value for name, value in model.state_dict().items() if name not in tied}
    state = {name: value.clone() for name, value in revert_weight_conversion(model, kept).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save_pretrained(folder)


def edit(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of the model folder ``source`` whose tensors are ``change(name, tensor)``."""
    shutil.copytree(source, target)
    state = load_file(source / "model.safetensors")
    changed = {name: change(name, tensor.clone()).contiguous() for name, tensor in state.items()}
    save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
    return target


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change keys of ``folder/config.json`` in place; ``None`` stays null."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of ``VOCABULARY`` tokens; id 0 is the end token and every other special one."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(SENTENCES, trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<end>")
    return PreTrainedTokenizerFast(tokenizer_object=trained, **special)


@cache
def prepending_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that prepends a space to any text and writes spaces as "▁", as those of Llama 2 and Mistral do."""
    letters = sorted({letter for text in SENTENCES for letter in text.replace(" ", "▁")} | {"▁"})
    pieces = ["▁" + word[:end] for word in ("Rome", "Paris") for end in range(1, len(word) + 1)]
    vocabulary = {piece: at for at, piece in enumerate(["<end>", *letters, *pieces])}
    merges = [(piece[:-1], piece[-1]) for piece in pieces]
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<end>"))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<end>")
    return PreTrainedTokenizerFast(tokenizer_object=built, **special)
