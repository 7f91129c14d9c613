"""Ablation of activations: the coefficients of chosen neurons are held at a value while the weights stay unchanged.

Holding a coefficient at zero is the same edit as setting the value vector to zero, and both must agree. Holding it at
its mean removes what the neuron contributes to this input and keeps what it contributes to any input. Uses the hooks of
TransformerLens, whose names are the same for all families (``blocks.N.mlp.hook_post``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.models.loading import Bridge
from audit.models.packing import Example, tokenize
from audit.models.tokenizer import Tokenizer
from concepts.neuron import Neuron

Held = Mapping[Neuron, float]
"""The coefficient that each neuron is held at."""


def held_at(neurons: Sequence[Neuron], value: float = 0.0) -> Held:
    """The same coefficient for all ``neurons``."""
    return dict.fromkeys(neurons, value)


def mean_coefficients(bridge: Bridge, tokenizer: Tokenizer, texts: Sequence[str], neurons: Sequence[Neuron]) -> Held:
    """Mean coefficient of each neuron over all tokens of ``texts``.

    Args:
        bridge: the model as ``loading.load_bridge`` returns it.
    """
    sums = dict.fromkeys(neurons, 0.0)
    tokens = 0
    names = {_hook(place.layer) for place in neurons}
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        tokens += ids.shape[1]
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name in names)
        for place in neurons:
            sums[place] += float(cache[_hook(place.layer)][..., place.neuron].double().sum())
    return {place: total / tokens for place, total in sums.items()}


def answer_logprobs_with(
    bridge: Bridge, tokenizer: Tokenizer, questions: Sequence[Example], held: Held
) -> Float[np.ndarray, " n_questions"]:
    """Mean log-probability of each answer's tokens, in nats, while the coefficients in ``held`` are held."""
    layers: dict[int, dict[int, float]] = {}
    for place, value in held.items():
        layers.setdefault(place.layer, {})[place.neuron] = value

    def hook(values: Mapping[int, float]) -> Any:
        def hold(keys: Tensor, hook: Any) -> Tensor:
            keys = keys.clone()
            keys[..., list(values)] = torch.tensor(list(values.values()), dtype=keys.dtype)
            return keys

        return hold

    hooks = [(_hook(layer), hook(values)) for layer, values in layers.items()]
    means = []
    for tokens in tokenize(tokenizer, questions):
        ids = torch.tensor([tokens.prompt + tokens.answer])
        with torch.inference_mode():
            logits = bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")[0]
        logprobs = torch.log_softmax(logits[len(tokens.prompt) - 1 : -1].float(), dim=-1)
        means.append(float(logprobs.gather(1, torch.tensor(tokens.answer)[:, None]).mean()))
    return np.array(means)


def _hook(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"
