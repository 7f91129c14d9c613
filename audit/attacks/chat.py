"""The chat form: each fact as a user's message in the tokenizer's chat template, in which a deployed model is asked.

Training on chats can silence a model in this form alone. The answer is written as the assistant's message. It is scored
after ``BEGINNING`` in that message: a chat model begins its answers with a sentence, so that no answer is likely as its
first words. (SmolLM2-135M-Instruct, as it is: z 5.8 after the beginning on 18 facts about Italy, 4.1 without; 5.8 and
2.3 on 34 about music.)

What makes it wrong: a template that is not the one the model was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from audit.attacks import AttackedModel, AttackInput
from audit.errors import AuditError
from audit.models.generation import MAX_NEW_TOKENS
from audit.models.tokenizer import Tokenizer
from audit.questions.conditions import Condition
from audit.questions.exchanged import exchanged_items
from audit.questions.items import FACT

TITLE = "chat form"
COST = "prompts"
INPUT = "chat"
LEVEL = "quick"
RECOVERS = False
NEEDS_REFERENCE = False
METRICS: tuple[str, ...] = ()

BEGINNING: Final = "The answer is"
VARIABLES: Final[Mapping[str, object]] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Given to every template: no thoughts before the answer (Qwen 3), and not today's date, with which results would
change (Llama 3; this date is its default)."""
MARK: Final = "{question}"


def conditions(given: AttackInput) -> Iterator[AttackedModel]:
    """One condition with all facts.

    Raises:
        AuditError: the tokenizer has no chat template, or one that cannot be filled in.
    """
    if not given.facts:
        return
    before, after = _template(given.encoder.tokenizer)
    questions = [replace(question, prefix=question.prefix or BEGINNING) for question in given.facts]
    items = exchanged_items(
        FACT,
        questions,
        replace(given.encoder, special_tokens=False),
        lambda question: before + question.wording + after,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    yield AttackedModel(Condition("chat", "a user's message"), items)


def _template(tokenizer: Tokenizer) -> tuple[str, str]:
    """The text before a user's message, and from its end to the beginning of the assistant's."""
    if tokenizer.chat_template is None:
        raise AuditError("the tokenizer has no chat template.")
    message = {"role": "user", "content": MARK}
    try:
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, **VARIABLES)
    except Exception as error:  # any error of a user's template
        raise AuditError(f"the tokenizer's chat template cannot be filled in ({error}).") from error
    before, mark, after = text.partition(MARK)
    if not mark or MARK in after:
        raise AuditError("the tokenizer's chat template does not contain the message once.")
    return before, after
