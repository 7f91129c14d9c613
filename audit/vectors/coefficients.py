"""Ablation on the side of activations: coefficients of chosen neurons are held, the weights stay as they are.

Holding a coefficient at zero is the same as setting the value vector to zero, and the two must agree. Holding it at its
mean is another question: it takes away what the neuron says of this input and leaves what it always says. By
TransformerLens' hooks, whose names are the same for all families (``blocks.N.mlp.hook_post``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.interventions import Place
from audit.models.packing import Example, tokenize

Held = Mapping[tuple[int, int], float]
"""(layer, neuron) -> the coefficient it is held at."""


def held_at(spots: Sequence[Place], value: float = 0.0) -> Held:
    """The same coefficient for all ``spots``."""
    return {(spot.layer, spot.neuron): value for spot in spots}


def mean_coefficients(bridge: Any, tokenizer: Any, texts: Sequence[str], spots: Sequence[Place]) -> Held:
    """Mean coefficient of each neuron over all tokens of ``texts``.

    Args:
        bridge: as ``running.load_bridge`` gives it.
    """
    sums = dict.fromkeys(((spot.layer, spot.neuron) for spot in spots), 0.0)
    tokens = 0
    names = {_hook(layer) for layer, _ in sums}
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        tokens += ids.shape[1]
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name in names)
        for layer, neuron in sums:
            sums[layer, neuron] += float(cache[_hook(layer)][..., neuron].double().sum())
    return {place: total / tokens for place, total in sums.items()}


def answer_logprobs_with(
    bridge: Any, tokenizer: Any, questions: Sequence[Example], held: Held
) -> Float[np.ndarray, " n_questions"]:
    """Mean log-probability of each answer's tokens, in nats, while the coefficients are held; as they are if none."""
    layers: dict[int, dict[int, float]] = {}
    for (layer, neuron), value in held.items():
        layers.setdefault(layer, {})[neuron] = value

    def hook(values: Mapping[int, float]) -> Any:
        def hold(keys: Tensor, hook: Any) -> Tensor:
            keys = keys.clone()
            keys[..., list(values)] = torch.tensor(list(values.values()), dtype=keys.dtype)
            return keys

        return hold

    hooks = [(_hook(layer), hook(values)) for layer, values in layers.items()]
    found = []
    for tokens in tokenize(tokenizer, questions):
        ids = torch.tensor([tokens.prompt + tokens.answer])
        with torch.inference_mode():
            logits = bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")[0]
        logprobs = torch.log_softmax(logits[len(tokens.prompt) - 1 : -1].float(), dim=-1)
        found.append(float(logprobs.gather(1, torch.tensor(tokens.answer)[:, None]).mean()))
    return np.array(found)


def _hook(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"
