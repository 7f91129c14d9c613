"""Reading key vectors and fitting a region: ours against plain forward passes and the reference's procedure.

    python -m benchmarks.skill_speed DATA      # a folder with gsm8k_test.jsonl and xquad.en.json

The reference (Li, Sun, Weng 2025) runs one query at a time with its head, copies every layer's activations to numpy as
it goes, keeps one array a query, takes mean and deviation by Welford's recursion and bisects for the cube's size,
checking each query again, as tensors, at each step. That procedure is reimplemented here. Runs alternate; figures are
medians of their ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from audit.commands.demo import model_folder
from audit.models.forward import padded
from audit.models.keys import collect
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.settings import default_cache
from benchmarks.record import folders, publish
from concepts.regions import fit_hypercube
from concepts.skill import load_skill

QUERIES = 120
RUNS = 3
BATCH = 20
UPPER, TOLERANCE = 10_000.0, 1e-5


def main() -> None:
    """Three ratios against their goals."""
    (data,) = folders("DATA")
    model = open_model(model_folder(default_cache())).load()
    queries = [
        query.prompt
        for file in ("gsm8k_test.jsonl", "xquad.en.json")
        for query in load_skill(data / file).queries[: QUERIES // 2]
    ]
    prompts = [tuple(model.tokenizer(query)["input_ids"]) for query in queries]
    plain, hooked, single = [], [], []
    for _ in range(RUNS):
        plain.append(timed(lambda: forward(model, prompts)))
        hooked.append(timed(lambda: collect(model, prompts, pool="both", batch_size=BATCH)))
        single.append(timed(lambda: one_by_one(model, prompts)))
    rows = collect(model, prompts, batch_size=BATCH).rows
    n_layers = rows.shape[1]
    kept = {layer: [row[None].astype(np.float32) for row in rows[:, layer]] for layer in range(n_layers)}
    closed = min(timed(lambda: [fit_hypercube(rows, layer) for layer in range(n_layers)]) for _ in range(RUNS))
    bisected = timed(lambda: [bisect(kept[layer]) for layer in range(n_layers)])
    ours = [fit_hypercube(rows, layer).k for layer in range(n_layers)]
    theirs = [bisect(kept[layer]) * np.sqrt(len(rows) / (len(rows) - 1)) for layer in range(n_layers)]
    assert np.allclose(ours, theirs, rtol=1e-3), "both find the same cube"
    tokens = sum(map(len, prompts))
    publish(
        "skill_speed",
        [
            row(
                "hooked over plain forward pass", [a / b for a, b in zip(hooked, plain, strict=True)], 1.15, least=False
            ),
            row("reference's reading over ours", [a / b for a, b in zip(single, hooked, strict=True)], 1.6, least=True),
            row("reference's bisection over closed form", [bisected / closed], 80.0, least=True),
        ],
        f"{len(prompts)} queries, {tokens} tokens, {n_layers} layers; ours {median(hooked):.1f} s, plain "
        f"{median(plain):.1f} s, reference {median(single):.1f} s; fit {closed:.2f} s against {bisected:.1f} s",
    )


def row(what: str, ratios: list[float], goal: float, least: bool) -> dict[str, Any]:
    value = median(ratios)
    reached = value >= goal if least else value <= goal
    return {"ratio": what, "measured": value, "goal": goal, "reached": reached}


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forward(model: RunningModel, prompts: list[tuple[int, ...]]) -> None:
    """The same batches as ``collect``, without hooks."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            arguments = padded(model, [prompts[index] for index in order[start : start + BATCH]], 0)
            model.model.base_model(**arguments, use_cache=False)


def one_by_one(model: RunningModel, prompts: list[tuple[int, ...]]) -> dict[int, list[np.ndarray]]:
    """The reference's way of collecting: a list of arrays for each layer."""
    kept: dict[int, list[np.ndarray]] = {}

    def hook(layer: int) -> Any:
        def take(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            kept.setdefault(layer, []).append(inputs[0].detach().cpu().numpy()[:, -1, :].copy())

        return take

    handles = [
        model.model.get_submodule(model.architecture.out_module.format(layer=layer)).register_forward_hook(hook(layer))
        for layer in range(model.architecture.n_layers)
    ]
    try:
        with torch.no_grad():
            for ids in prompts:
                model.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    return kept


def bisect(vectors: list[np.ndarray]) -> float:
    """The reference's fit of one layer: Welford's recursion, then bisection that checks every query in turn."""
    rows = [vector.squeeze() for vector in vectors]
    mean: Any = 0
    squares: Any = 0
    for n, x in enumerate(rows, start=1):
        delta = x - mean
        mean = mean + delta / n
        squares = squares + delta * (x - mean)
    std = np.sqrt(squares / (len(rows) - 1))
    low, high = 0.0, UPPER
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        if all(within(x, mean, middle * std) for x in rows):
            high = middle
        else:
            low = middle
    return high


def within(x: np.ndarray, mean: np.ndarray, reach: np.ndarray) -> bool:
    """The reference's check of one query at one step: all three are made tensors first."""
    query, centre, width = torch.tensor(x), torch.tensor(mean), torch.tensor(reach)
    return bool(torch.all((query >= centre - width) & (query <= centre + width)))


if __name__ == "__main__":
    main()
