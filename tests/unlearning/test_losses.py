"""The losses of the unlearning methods: values worked out by hand, identities of their papers, and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from audit.errors import AuditError
from audit.models.packing import Example
from audit.unlearning.methods import ce_u, dpo, gradient_ascent, idk, random_answers, satimp, simnpo, undial, wga
from audit.unlearning.objective import AnswerTokens, Scores

OWNER = torch.tensor([0, 0, 1])
TARGETS = torch.tensor([2, 0, 1])
Loss = Callable[[Scores], tuple[Tensor, dict[str, float]]]


def scores(logits: Tensor, before: Tensor | None = None, n_answers: int = 1) -> Scores:
    """Two answers of two tokens and of one, with 4 tokens in the vocabulary."""
    logprobs = logits.log_softmax(dim=1)
    then = logprobs.detach() if before is None else before.log_softmax(dim=1)
    tokens = AnswerTokens(logprobs, TARGETS, OWNER, then)
    now = torch.zeros(2).index_add(0, OWNER, tokens.chosen).view(-1, n_answers)
    was = torch.zeros(2).index_add(0, OWNER, then.gather(1, TARGETS[:, None])[:, 0]).view(-1, n_answers)
    return Scores(now, was, torch.tensor([2, 1])[:: 2 if n_answers == 2 else 1], tokens)


def gradient(loss: Loss, logits: Tensor, before: Tensor | None = None) -> Tensor:
    leaf = logits.clone().requires_grad_()
    value, _ = loss(scores(leaf, before))
    (result,) = torch.autograd.grad(value, leaf)
    return result


@pytest.fixture
def logits() -> Tensor:
    drawn = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    drawn[torch.arange(3), TARGETS] += 2  # the answers are known
    return drawn


ASCENTS: dict[str, Loss] = {
    "gradient_ascent": gradient_ascent.forget_loss,
    "wga": partial(wga.forget_loss, beta=1.0),
    "satimp": partial(satimp.forget_loss, beta1=5.0, beta2=1.0),
    "simnpo": partial(simnpo.forget_loss, beta=2.5, delta=0.0),
    "undial": partial(undial.forget_loss, beta=10.0),
    "ce_u": ce_u.forget_loss,
}


@pytest.mark.parametrize("name", ASCENTS)
def test_a_step_down_every_loss_makes_each_answer_token_less_likely(name: str, logits: Tensor) -> None:
    moved = logits - 0.1 * gradient(ASCENTS[name], logits)
    fall = scores(logits).tokens.chosen - scores(moved).tokens.chosen
    assert (fall > 0).all()


@pytest.mark.parametrize("name", ASCENTS)
def test_a_constant_added_to_all_logits_of_a_position_changes_no_loss(name: str, logits: Tensor) -> None:
    shift = torch.tensor([[3.0], [-2.0], [0.5]])
    plain, shifted = (ASCENTS[name](scores(each, each))[0] for each in (logits, logits + shift))
    torch.testing.assert_close(shifted, plain, rtol=1e-5, atol=1e-6)


def test_simnpo_divides_by_the_length_and_needs_no_reference() -> None:
    """Sums -2 and -3 over 2 and 1 tokens: ``-(2/beta) mean(log sigma(beta 1 - d), log sigma(beta 3 - d))``."""
    made = Scores(torch.tensor([[-2.0], [-3.0]]), torch.full((2, 1), torch.nan), torch.tensor([2, 1]), empty())
    loss, readings = simnpo.forget_loss(made, beta=0.5, delta=0.1)
    wanted = -4 * (math.log(sigma(0.5 - 0.1)) + math.log(sigma(1.5 - 0.1))) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    assert readings["per_token"] == pytest.approx(-2.0)


def test_weighted_ascent_with_power_0_is_gradient_ascent(logits: Tensor) -> None:
    plain = gradient(gradient_ascent.forget_loss, logits)
    torch.testing.assert_close(gradient(partial(wga.forget_loss, beta=0.0), logits), plain)
    torch.testing.assert_close(gradient(partial(satimp.forget_loss, beta1=0.0, beta2=0.0), logits), plain)


def test_weights_are_constant_and_count_each_token_by_its_probability(logits: Tensor) -> None:
    probability = scores(logits).tokens.chosen.exp()[:, None]
    plain = gradient(gradient_ascent.forget_loss, logits)
    torch.testing.assert_close(gradient(partial(wga.forget_loss, beta=2.0), logits), probability**2 * plain)
    weighted = gradient(partial(satimp.forget_loss, beta1=5.0, beta2=1.0), logits)
    torch.testing.assert_close(weighted, probability**5 * (1 - probability) * plain)


def test_undial_rests_where_the_model_has_the_lowered_distribution(logits: Tensor) -> None:
    lowered = logits.clone()
    lowered[torch.arange(3), TARGETS] -= 10
    loss = partial(undial.forget_loss, beta=10.0)
    assert gradient(loss, lowered, before=logits).abs().max() < 1e-5
    assert gradient(loss, logits, before=logits).abs().max() > 0.1
    entropy = -(lowered.softmax(1) * lowered.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(scores(lowered, logits))[0], entropy)


def test_ce_u_is_the_published_loss_and_vanishes_with_the_answers_probability(logits: Tensor) -> None:
    others = logits.clone()
    others[torch.arange(3), TARGETS] = -torch.inf
    wanted = torch.nn.functional.cross_entropy(logits, others.softmax(dim=1))
    torch.testing.assert_close(ce_u.forget_loss(scores(logits))[0], wanted)
    gone = logits.clone()
    gone[torch.arange(3), TARGETS] = -40
    assert gradient(ce_u.forget_loss, gone).abs().max() < 1e-6


def test_ce_u_may_leave_out_the_first_token_of_each_answer(logits: Tensor) -> None:
    kept = gradient(partial(ce_u.forget_loss, skip_first=True), logits)
    assert (kept[[0, 2]] == 0).all()
    torch.testing.assert_close(kept[1], 3 * gradient(ce_u.forget_loss, logits)[1])


def test_answers_that_replace_others_are_trained_alone(logits: Tensor) -> None:
    """With two answers an example the second answer's only token is trained."""
    made = scores(logits, n_answers=2)
    assert idk.replaced_loss(made)[0].item() == pytest.approx(-made.tokens.chosen[2].item())


def test_dpo_has_the_value_of_its_paper() -> None:
    """``-1/beta log sigma(beta ((-3 + 5) - (-2 + 1)))`` with beta 0.5: ``-2 log sigma(1.5)``."""
    made = Scores(torch.tensor([[-2.0, -3.0]]), torch.tensor([[-1.0, -5.0]]), torch.tensor([1]), empty())
    loss, readings = dpo.forget_loss(made, beta=0.5)
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-1.5)))
    assert readings["margin"] == pytest.approx(3.0)


def test_gradient_ascent_lowers_the_mean_log_probability_of_the_tokens() -> None:
    made = Scores(torch.tensor([[-1.0], [-6.0]]), torch.zeros(2, 1), torch.tensor([1, 3]), empty())
    assert gradient_ascent.forget_loss(made)[0].item() == pytest.approx(-7 / 4)


def test_wrong_answers_are_those_of_other_examples() -> None:
    forget = [Example(f"Q{number}", f" {answer}") for number, answer in enumerate(["a", "b", "a", "c"])]
    for seed in range(5):
        wrong = random_answers.wrong_answers(forget, seed)
        assert [example.prompt for example in wrong] == [example.prompt for example in forget]
        assert all(one.answer != other.answer for one, other in zip(wrong, forget, strict=True))
        assert {example.answer for example in wrong} <= {" a", " b", " c"}
    with pytest.raises(AuditError, match="no other answer"):
        random_answers.wrong_answers(forget[::2], 0)


def test_an_answer_that_contains_the_right_one_is_not_wrong() -> None:
    forget = [Example("Q1", " Rome"), Example("Q2", " Rome, Venice"), Example("Q3", " Milan")]
    assert [each.answer for each in random_answers.wrong_answers(forget, 0)][:2] == [" Milan", " Milan"]


def sigma(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def empty() -> AnswerTokens:
    """For losses that read whole answers alone."""
    return AnswerTokens(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
