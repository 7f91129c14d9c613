"""Greedy answers of SmolLM2 by ``audit.models.generation`` and by transformers' ``generate``: are they equal, how fast?

Both write the answers to 60 few-shot questions and stop each row by the same rule. Ours takes larger batches than 16,
runs the shared prefix of the prompts once, computes no logits of prompt tokens, and drops rows from the batch as they
end. Times are CPU seconds of one thread, which a busy machine does not change.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from audit.commands.demo import model_folder
from audit.models.forward import shared_prefix
from audit.models.generation import MAX_NEW_TOKENS, greedy, is_over
from audit.models.loading import RunningModel
from audit.models.opening import open_model
from audit.settings import default_cache
from benchmarks.record import publish
from concepts.concept import load_concept
from concepts.prompts import few_shot

BATCH = 16
QUESTIONS, UNRELATED = 10, 50

Ids = tuple[int, ...]


def main(folder: Path | None = None) -> None:
    """One run of each, after some answers as a warm-up."""
    torch.set_num_threads(1)
    model = open_model(folder or model_folder(default_cache())).load()
    concept = load_concept("italy")
    avoid = [concept.title, *concept.seeds]
    questions = [*concept.questions[:QUESTIONS], *concept.unrelated[:UNRELATED]]
    prompts = [tuple(model.tokenizer(few_shot(question.question, avoid))["input_ids"]) for question in questions]
    greedy(model, prompts[:BATCH], batch_size=BATCH)
    start = time.process_time()
    ours = greedy(model, prompts, batch_size=BATCH)
    middle = time.process_time()
    theirs = transformers_generate(model, prompts)
    end = time.process_time()
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    seconds = {"audit.models.generation": middle - start, "transformers generate": end - middle}
    rows = [
        {"what": what, "CPU s": taken, "times ours": taken / seconds["audit.models.generation"], "equal answers": equal}
        for what, taken in seconds.items()
    ]
    shared, tokens = len(shared_prefix([ids[:-1] for ids in prompts])), sum(len(ids) for ids in prompts)
    publish(
        "generation",
        rows,
        f"{len(prompts)} prompts of {tokens / len(prompts):.0f} tokens on average, the first {shared} shared; "
        f"batches of {BATCH}; one thread",
    )


def transformers_generate(model: RunningModel, prompts: list[Ids]) -> list[Ids]:
    """The same answers by the library: padded on the left, each row stopped by the same rule."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Over(StoppingCriteria):  # type: ignore[misc]  # the library has no types
        def __init__(self, start: int) -> None:
            self.start = start

        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            texts = [model.tokenizer.decode(row[self.start :].tolist()) for row in input_ids]
            return torch.tensor([is_over(text) for text in texts], device=input_ids.device)

    end = model.tokenizer.eos_token_id
    assert end is not None
    answers: list[Ids] = [()] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for begin in range(0, len(order), BATCH):
        indices = order[begin : begin + BATCH]
        longest = max(len(prompts[index]) for index in indices)
        input_ids = torch.full((len(indices), longest), end)
        mask = torch.zeros(len(indices), longest, dtype=torch.long)
        for row, index in enumerate(indices):
            input_ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, longest - len(prompts[index]) :] = 1
        with torch.inference_mode():
            written = model.model.generate(
                input_ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=end,
                stopping_criteria=StoppingCriteriaList([Over(longest)]),
            )
        for row, index in enumerate(indices):
            answers[index] = trimmed(written[row, longest:].tolist(), end)
    return answers


def trimmed(ids: list[int], end: int) -> Ids:
    """``ids`` up to the end token, which is the padding too."""
    return tuple(ids[: ids.index(end)] if end in ids else ids)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
