"""Does the causal search find the rows that facts were trained into? Graded on models whose place is known.

    python -m benchmarks.exam.planted [--worlds 20 21 22 23 24 25] [--places 2] [--cache DIR]

The facts to forget are trained into 1 % of the MLP rows of all blocks but the last (after arXiv 2607.02513, with whole
rows); every other weight equals that of the model before, which is the twin that never knew. Graded are the rankings by
each step of the search of ``audit find --validate``, the set that it chooses and the core of that set, the ranking by
mean ablation, and the report's most changed neurons. A larger share leaves rows empty that no search can find: of 2 %
about one in eight.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from audit.commands.compare import compare
from audit.models.hooks import by_layer, on_inputs, starting_at
from audit.models.opening import open_model
from audit.models.packing import Example, answer_logprobs
from audit.models.scoring import answer_means
from audit.progress import SILENT
from audit.vectors.attribution import Attribution, integrated_gradients, relp
from audit.vectors.controls import matched_controls
from audit.vectors.effects import Trial
from audit.vectors.question_split import QuestionSplits, split_questions, zeroed
from audit.vectors.validation import choose_set, core_of
from benchmarks.exam.grades import auc
from benchmarks.record import publish
from benchmarks.world.making import Made, Workshop
from benchmarks.world.people import World, questions
from benchmarks.world.removals import Planted, Planting
from concepts.concept import load_concept
from concepts.neuron import Neuron

Row = dict[str, Any]
CANDIDATES: Final = 3
"""Neurons that are ablated one by one, as a multiple of the planted ones."""
RESERVE: Final = 2.0
"""Weight of a neuron's effect on answers about known people, subtracted from its effect on those about the others."""
PLANTING: Final = Planting(share=0.01, steps=800)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exam.planted", description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[20, 21, 22, 23, 24, 25], help="seeds of the worlds")
    parser.add_argument("--places", type=int, default=2, help="models of each world, each with facts in other rows")
    parser.add_argument("--cache", type=Path, default=Path("audit-report/.cache/world"))
    options = parser.parse_args()
    rows = []
    for world in options.worlds:
        workshop = Workshop(options.cache / "models", World(world))
        for place in range(options.places):
            found = [*graded(workshop, replace(PLANTING, place=100 * world + place))]
            rows += [{"world": world, "place": place, **row} for row in found]
            print(f"world {world}, place {place}: " + ", ".join(f"{row['by']} {row['precision']:.2f}" for row in found))
    ways = dict.fromkeys(row["by"] for row in rows)
    table = [{"by": way, "models": sum(row["by"] == way for row in rows), **_means(rows, way)} for way in ways]
    publish("exam_planted", table, f"worlds {', '.join(map(str, options.worlds))}, {options.places} places each")


def graded(workshop: Workshop, planting: Planting) -> Iterator[Row]:
    """One row for each way of finding the rows: precision and recall at the planted number, and AUC over all rows."""
    folder = workshop.make((Made(planting, 11),))
    world = workshop.world
    rows = Planted(planting.share, planting.place).rows(workshop.open(folder))
    truth = {(layer, int(neuron)) for layer, chosen in enumerate(rows) for neuron in chosen}
    model = open_model(folder).load()
    asked, others = (
        [Example(row.prompt, row.answer) for row in questions(world.of(people))]
        for people in (world.people["forget"], world.people["base"][: len(world.people["forget"])])
    )
    every = range(model.architecture.n_layers)
    yield {"by": "RelP", **_ranked(relp(model, asked) - RESERVE * relp(model, others), truth)}
    refined = integrated_gradients(model, asked, every) - RESERVE * integrated_gradients(model, others, every)
    yield {"by": "integrated gradients", **_ranked(refined, truth)}
    flat = refined.flatten().topk(CANDIDATES * len(truth)).indices.tolist()
    candidates = [Neuron(*divmod(each, refined.shape[1])) for each in flat]
    trials = [Trial(model, examples) for examples in (asked, others)]
    own, unrelated = (_falls(trial, candidates) for trial in trials)
    best = [candidates[index] for index in np.argsort(RESERVE * unrelated - own)[: len(truth)]]
    yield {"by": "ablation one by one", **_chosen([(each.layer, each.neuron) for each in best], truth), "auc": None}
    means = _mean_falls(trials[0], candidates)
    best = [candidates[index] for index in np.argsort(-means)[: len(truth)]]
    yield {
        "by": "mean ablation one by one",
        **_chosen([(each.layer, each.neuron) for each in best], truth),
        "auc": None,
    }
    concept = load_concept(str(workshop.concept()))
    splits = QuestionSplits(model, split_questions(model, concept), 0, SILENT)
    found = choose_set(model, splits, [], partial(matched_controls, open_model(folder), per_vector=1))
    sets = {"set": found.neurons, "core": core_of(splits.choosing, found)} if found is not None else {}
    for part in ("set", "core"):
        chosen = [(each.layer, each.neuron) for each in sets.get(part, ())]
        yield {"by": f"{part} of audit find --validate", **_chosen(chosen, truth), "auc": None}
    changed = compare(workshop.make(), folder).weights.top_neurons
    places = [(each.layer, each.neuron) for each in changed[: len(truth)]]
    yield {"by": "most changed neurons of the report", **_chosen(places, truth), "auc": None}


def _falls(trial: Trial, neurons: Sequence[Neuron]) -> Float[np.ndarray, " n_neurons"]:
    """By how much the answers' log-probability falls on average without each neuron, in nats a token."""
    d_model = trial.model.architecture.d_model
    return np.array([trial.effect(zeroed([each], d_model)).mean() for each in neurons])


def _mean_falls(trial: Trial, neurons: Sequence[Neuron]) -> Float[np.ndarray, " n_neurons"]:
    """The same with each neuron's coefficient held at its mean over the questions' tokens."""
    means = _mean_coefficients(trial)
    falls = []
    for each in neurons:
        name = trial.model.architecture.out_module.format(layer=each.layer)
        held = partial(_hold, each.neuron, float(means[each.layer, each.neuron]))
        with torch.inference_mode(), on_inputs(trial.model.model, {name: held}):
            after = []
            for row, kept in zip(trial.rows, trial.kept, strict=True):
                with starting_at(trial.model, each.layer, kept):
                    after.append(answer_means(row, answer_logprobs(trial.model, row)).double().numpy())
        falls.append(float((trial.before - np.concatenate(after)).mean()))
    return np.array(falls)


def _hold(neuron: int, value: float, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    keys = inputs[0].clone()
    keys[..., neuron] = value
    return (keys, *inputs[1:])


def _mean_coefficients(trial: Trial) -> Float[np.ndarray, "n_layers d_mlp"]:
    """The mean of each neuron over all tokens of the questions and answers."""
    architecture = trial.model.architecture
    sums = np.zeros((architecture.n_layers, architecture.d_mlp))
    tokens = 0

    def add(layer: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[layer] += inputs[0].flatten(0, -2).double().sum(0).numpy()

    hooks = by_layer(architecture.out_module, range(architecture.n_layers), add)
    with torch.inference_mode(), on_inputs(trial.model.model, hooks):
        for row in trial.rows:
            answer_logprobs(trial.model, row)
            tokens += row.ids.shape[-1]
    return sums / tokens


def _ranked(scores: Attribution, truth: Collection[tuple[int, int]]) -> Row:
    """Of the ranking by ``scores``."""
    best = scores.flatten().topk(len(truth)).indices.tolist()
    planted = np.zeros(scores.numel(), dtype=bool)
    planted[[layer * scores.shape[1] + neuron for layer, neuron in truth]] = True
    values = scores.flatten().numpy()
    own = _chosen([divmod(each, scores.shape[1]) for each in best], truth)
    return {**own, "auc": auc(values[planted], values[~planted])}


def _chosen(found: Sequence[tuple[int, int]], truth: Collection[tuple[int, int]]) -> Row:
    hits = len(set(found) & set(truth))
    return {
        "precision": hits / len(found) if found else float("nan"),
        "recall": hits / len(truth),
        "rows": len(found),
        "planted": len(truth),
    }


def _means(rows: Sequence[Row], way: str) -> Row:
    own = [row for row in rows if row["by"] == way]
    names = ("precision", "recall", "auc", "rows", "planted")
    known = {name: [row[name] for row in own if row[name] is not None] for name in names}
    lowest = min(row["precision"] for row in own)
    return {**{name: float(np.mean(values)) if values else None for name, values in known.items()}, "lowest": lowest}


if __name__ == "__main__":
    main()
