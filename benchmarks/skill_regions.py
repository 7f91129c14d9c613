"""How well a region of key space separates a skill from others: SmolLM2-135M-Instruct, each of six skills in turn.

    python -m benchmarks.skill_regions DATA      # a folder with gsm8k_test.jsonl, HumanEval.jsonl.gz, xquad.*.json

Regions are those of ``audit skill``: fitted, chosen and reported on three disjoint splits of the queries, layers and
slack by the choosing split, for four seeds. ``others`` is the worst other skill's share of reported queries inside;
``left out`` the worst such share of a skill whose queries the fit did not see, with layers and slack chosen with it, as
``audit skill`` prints it; ``unknown`` the same where they were chosen without it as well. Keys are kept in the cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audit.commands.demo import model_folder
from audit.guards.measurements import GOALS
from audit.guards.regions import best_cube, voting_layers
from audit.models.keys import collect
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.settings import default_cache
from benchmarks.record import folders, publish
from concepts.region_choice import SplitKeys, choose_region, fit_with, load_background
from concepts.regions import Region
from concepts.skill import Skill, Splits, load_skill, split

SKILLS = {
    "math": ("gsm8k_test.jsonl", 240),
    "code": ("HumanEval.jsonl.gz", 160),
    "English": ("xquad.en.json", 200),
    "German": ("xquad.de.json", 200),
    "Spanish": ("xquad.es.json", 200),
    "Chinese": ("xquad.zh.json", 200),
}
BACKGROUND = "background"

SEEDS = (0, 1, 2, 3)
"""Seeds of the splits; 0 is the default of ``audit skill``."""


def main() -> None:
    (data,) = folders("DATA")
    skills = {name: _first(load_skill(data / file), count) for name, (file, count) in SKILLS.items()}
    keys = _keys(skills, default_cache())
    rows = []
    for seed in SEEDS:
        splits = {name: split(skill, seed) for name, skill in skills.items()}
        for name in skills:
            rows += [{"split": seed} | row for row in (_cube(name, keys, splits), _vote(name, keys, splits))]
    publish("skill_regions", rows, "reach: inside >= 0.97, others <= 0.01, left out <= 0.05")


def _first(skill: Skill, count: int) -> Skill:
    return skill.model_copy(update={"queries": skill.queries[:count]})


def _keys(skills: dict[str, Skill], cache: Path) -> dict[str, np.ndarray]:
    """Last-token and mean keys of each skill and of the background, from the cache where it holds them."""
    model: RunningModel | None = None
    keys = {}
    prompts = {name: [query.prompt for query in skill.queries] for name, skill in skills.items()}
    for name, texts in (prompts | {BACKGROUND: [*load_background()]}).items():
        file = cache / "keys" / f"{name}-{len(texts)}-both.npy"
        if not file.is_file():
            model = model or open_model(model_folder(cache)).load()
            file.parent.mkdir(parents=True, exist_ok=True)
            collected = collect(model, [model.tokenizer(prompt)["input_ids"] for prompt in texts], pool="both")
            assert not collected.skipped, "every query fits the context"
            np.save(file, collected.rows)
        keys[name] = np.load(file)
    return keys


KeysBySkill = dict[str, np.ndarray]
SplitsBySkill = dict[str, Splits]


def _cube(forget: str, keys: KeysBySkill, splits: SplitsBySkill) -> dict[str, Any]:
    """The paper's, at the layer that separates the choosing queries best; its fit leaves out all other skills."""
    own, others = _kept(forget, keys, splits)
    cube = best_cube(own, [*others.values()], range(own.fit.shape[1] // 2))  # at the last token, as the paper's
    inside, worst, worst_name = _report(cube, forget, keys, splits)
    return _row(
        forget, f"cube, layer {cube.layer}", inside, (worst, worst_name), (worst, worst_name), (worst, worst_name)
    )


def _vote(forget: str, keys: KeysBySkill, splits: SplitsBySkill) -> dict[str, Any]:
    """Ours, with the layers and the slack that include the fewest choosing queries of other and of left out skills."""
    (own, others), background = _kept(forget, keys, splits), keys[BACKGROUND]
    n_layers = keys[forget].shape[1] // 2
    region, choice = choose_region(own, [*others.values()], voting_layers(n_layers), background=background)
    left_out, unknown = {}, {}
    for name in others:
        rest = [other for each, other in others.items() if each != name]
        reported = keys[name][list(splits[name].report)]
        without = fit_with(own, rest, choice, background=background)
        left_out[name] = float(without.inside(reported).mean())
        region_without, _ = choose_region(own, rest, voting_layers(n_layers), background=background)
        unknown[name] = float(region_without.inside(reported).mean())
    inside, worst, worst_name = _report(region, forget, keys, splits)
    layers, slack = choice
    name = f"vote, layers {layers[0]}-{layers[-1] - n_layers}, slack {slack:g}"
    return _row(forget, name, inside, (worst, worst_name), _worst(left_out), _worst(unknown))


def _worst(share: dict[str, float]) -> tuple[float, str]:
    name = max(share, key=lambda name: share[name])
    return share[name], name


def _kept(forget: str, keys: KeysBySkill, splits: SplitsBySkill) -> tuple[SplitKeys, dict[str, SplitKeys]]:
    """The skill's keys to fit on and to choose by, and those of the others."""
    kept = {name: SplitKeys(keys[name][list(part.fit)], keys[name][list(part.choose)]) for name, part in splits.items()}
    return kept.pop(forget), kept


def _report(region: Region, forget: str, keys: KeysBySkill, splits: SplitsBySkill) -> tuple[float, float, str]:
    return _shares(region, forget, keys, {name: part.report for name, part in splits.items()})


def _shares(
    region: Region, forget: str, keys: KeysBySkill, chosen: dict[str, tuple[int, ...]]
) -> tuple[float, float, str]:
    """Share of the skill's queries inside, the worst other skill's, and which that is."""
    share = {name: float(region.inside(keys[name][list(part)]).mean()) for name, part in chosen.items()}
    return share.pop(forget), *_worst(share)


def _row(
    forget: str,
    region: str,
    inside: float,
    others: tuple[float, str],
    left_out: tuple[float, str],
    unknown: tuple[float, str],
) -> dict[str, Any]:
    reached = inside >= GOALS["forget"] and others[0] <= GOALS["retain"] and left_out[0] <= GOALS["left out"]
    return {
        "forget": forget,
        "region": region,
        "inside": inside,
        "others": others[0],
        "worst": others[1],
        "left out": left_out[0],
        "worst left out": left_out[1],
        "unknown": unknown[0],
        "worst unknown": unknown[1],
        "reached": "yes" if reached else "no",
    }


if __name__ == "__main__":
    main()
