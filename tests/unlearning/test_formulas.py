"""Methods against the formulas of their papers, written down here once more, with plain passes and loops.

Batches hold all examples, but for one test. Losses and weights must be those of a model trained by the formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from audit.models.loading import RunningModel
from audit.models.packing import Tokens, encode, tokenize
from audit.progress import SILENT
from audit.unlearning.methods import (
    circuit_breakers,
    dpo,
    embedding_only,
    ignorant_teacher,
    knowledge_direction,
    laf,
    layer_wise,
    masquerade,
    methods,
    npo,
    pdu,
    prune_first,
    rmu,
    ssd,
    task_vector,
    undo,
    worst_case,
)
from audit.unlearning.methods._losses import LossName
from audit.unlearning.training import Record, batches_of_both
from tests.helpers import DIFFERENT, RETAIN, fact_example, open_model
from tests.tiny import tokenizer, write_tiny

FACTS = [
    *DIFFERENT,
    fact_example("In which city is the Scala?", "Milan, a city", "Scala"),
    fact_example("Which city makes cars?", "Turin", "cars"),
]
RATE = 3e-3
Text = tuple[int, ...]
STEPS: Mapping[str, Any] = {"steps": 4, "warmup": 2, "learning_rate": RATE}


@dataclass(frozen=True)
class Plain:
    """A model that is run on one example at a time, with the examples in its tokens."""

    model: nn.Module
    forget: Sequence[Tokens]
    retain: Sequence[Tokens]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters()]

    def blocks(self, n_layers: int = 6) -> dict[str, nn.Parameter]:
        """The matrices of the first blocks."""
        begins = tuple(f"model.layers.{layer}." for layer in range(n_layers))
        named = self.model.named_parameters()
        return {name: value for name, value in named if name.startswith(begins) and value.ndim == 2}

    def weights(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.parameters]

    def distributions(self, tokens: Tokens) -> Tensor:
        """Log-probabilities where each token of the answer is predicted."""
        logits: Tensor = self.model(torch.tensor([tokens.prompt + tokens.answer])).logits[0]
        return logits[len(tokens.prompt) - 1 : -1].log_softmax(dim=-1)

    def said(self, tokens: Tokens) -> Tensor:
        """Log-probability of each token of the answer."""
        return self.distributions(tokens)[range(len(tokens.answer)), tokens.answer]

    def streams(self, tokens: Tokens) -> list[Tensor]:
        """The residual stream after each block, at every token but the last."""
        ends: list[Tensor] = []
        norm = self.model.get_submodule("model.norm")
        with norm.register_forward_pre_hook(lambda module, args: ends.append(args[0])):
            passed = self.model(torch.tensor([tokens.prompt + tokens.answer]), output_hidden_states=True)
        return [each[0, :-1] for each in (*passed.hidden_states[1:-1], *ends)]  # the last of these is normed

    def stream(self, tokens: Tokens, layer: int) -> Tensor:
        return self.streams(tokens)[layer]

    def states(self, tokens: Tokens, layer: int) -> dict[Text, Tensor]:
        """The stream after ``layer`` by what was read so far."""
        return {tokens.inputs[: at + 1]: each for at, each in enumerate(self.stream(tokens, layer))}

    def sums(self) -> Tensor:
        """Log-probability of each answer to forget."""
        return torch.stack([self.said(each).sum() for each in self.forget])

    def loss_on(self, examples: Iterable[Tokens]) -> Tensor:
        """Mean loss of a token of the answers."""
        return -torch.cat([self.said(each) for each in examples]).mean()

    def moved_from(self, before: Sequence[Tensor], examples: Sequence[Tokens]) -> Tensor:
        """KL(before || now) of a token of the answers."""
        pairs = zip(before, (self.distributions(each) for each in examples), strict=True)
        return torch.cat([(then.exp() * (then - now)).sum(dim=1) for then, now in pairs]).mean()

    def trained(
        self,
        parameters: Iterable[nn.Parameter],
        loss: Callable[[int], Tensor],
        after: Callable[[], None] = lambda: None,
        steps: int = 4,
    ) -> list[float]:
        """AdamW with a rate that rises over two steps; the loss before each update."""
        optimizer, values = torch.optim.AdamW([*parameters], weight_decay=0.0), []
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 2)
            value = loss(step)
            self.model.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            with torch.no_grad():
                after()
            values.append(value.item())
        return values


Pair = tuple[RunningModel, Plain]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The same random model of six blocks for the method and for its formula."""
    return opened(write_tiny(tmp_path / "model", num_hidden_layers=6))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tensor]:
    """The weights of this model after some steps of training on the answers to forget."""
    _, plain = opened(write_tiny(tmp_path_factory.mktemp("learnt") / "model", num_hidden_layers=6))
    plain.trained(plain.parameters, lambda step: plain.loss_on(plain.forget), steps=20)
    return plain.model.state_dict()


@pytest.fixture
def taught(pair: Pair, learnt: Mapping[str, Tensor]) -> Pair:
    """A model that half knows the answers to forget, twice."""
    for each in (pair[0].model, pair[1].model):
        each.load_state_dict(learnt)
    return pair


def opened(folder: Path) -> Pair:
    model = open_model(folder)
    examples = (tokenize(model.tokenizer, each) for each in (FACTS, RETAIN))
    return model, Plain(open_model(folder).model.requires_grad_(True), *examples)


def assert_equal(pair: Pair, record: Record, losses: Sequence[float], first: int = 0) -> None:
    """The losses from step ``first`` on, and each weight up to a hundredth of an update."""
    assert [row["loss"] for row in record.trajectory[first:]] == pytest.approx(losses, rel=1e-5)
    for (name, one), other in zip(pair[0].model.named_parameters(), pair[1].parameters, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=RATE / 100, msg=name)


def preference(now: Tensor, reference: Tensor) -> Tensor:
    """NPO as its paper has it, with beta 0.1: ``(2/beta) E log(1 + (p/p_ref)^beta)``."""
    return 20 * (1 + (0.1 * (now - reference)).exp()).log().mean()


def direction(plain: Plain) -> list[Tensor]:
    """What four steps of training on the answers to forget change, after which the model is as it was."""
    before = plain.weights()
    plain.trained(plain.parameters, lambda step: plain.loss_on(plain.forget))
    after = plain.weights()
    set_to(plain, before)
    return [then - now for now, then in zip(before, after, strict=True)]


@torch.no_grad()
def set_to(plain: Plain, weights: Sequence[Tensor]) -> None:
    for value, wanted in zip(plain.parameters, weights, strict=True):
        value.copy_(wanted)


# ---- the weights


def test_a_task_vector_is_taken_away_as_often_as_asked_for(pair: Pair) -> None:
    model, plain = pair
    record = task_vector.unlearn(model, FACTS, RETAIN, task_vector.TaskVectorSettings(**STEPS, scale=1.5))
    assert record.trajectory[0]["loss"] == pytest.approx(plain.loss_on(plain.forget).item(), rel=1e-4)
    vector = direction(plain)
    set_to(plain, [start - 1.5 * change for start, change in zip(plain.weights(), vector, strict=True)])
    assert_equal(pair, record, [row["loss"] for row in record.trajectory])


@pytest.mark.parametrize("kind", ["el2", "il2", "nl2"])
def test_repulsion_is_of_the_distances_in_lengths_of_the_direction(
    kind: Literal["el2", "il2", "nl2"], pair: Pair
) -> None:
    model, plain = pair
    settings = knowledge_direction.KnowledgeDirectionSettings(
        **STEPS, adapt_steps=4, repulsion=kind, alpha=1.5, beta=0.4, retain_weight=0.5, retain_loss="ce"
    )
    record = knowledge_direction.unlearn(model, FACTS, RETAIN, settings)
    start, d = plain.weights(), direction(plain)
    length = sum(float(each.square().sum()) for each in d)

    def loss(step: int) -> Tensor:
        gone = [now - then for now, then in zip(plain.parameters, start, strict=True)]
        home = torch.stack([each.square().sum() for each in gone]).sum() / length
        away = torch.stack([(each - to).square().sum() for each, to in zip(gone, d, strict=True)]).sum() / length
        repelled = {"el2": (-1.5 * away).exp(), "il2": 1 / away, "nl2": home / 2 - 0.4 * away / 2}
        return repelled[kind] + 0.5 * plain.loss_on(plain.retain)

    assert_equal(pair, record, plain.trained(plain.parameters, loss), first=4)


def test_what_was_pruned_first_stays_zero_and_the_pruned_model_is_the_reference(pair: Pair) -> None:
    model, plain = pair
    settings = prune_first.PruneFirstSettings(**STEPS, sparsity=0.4, retain_weight=3.0)
    record = prune_first.unlearn(model, FACTS, RETAIN, settings)
    matrices = [*plain.blocks().values()]
    magnitudes = torch.cat([each.detach().abs().flatten() for each in matrices])
    least_kept = magnitudes.sort().values[round(0.4 * len(magnitudes))]
    kept = [each.detach().abs() >= least_kept for each in matrices]

    def prune() -> None:
        for matrix, mask in zip(matrices, kept, strict=True):
            matrix.mul_(mask)

    with torch.no_grad():
        prune()
        reference, before = plain.sums(), [plain.distributions(each) for each in plain.retain]

    def loss(step: int) -> Tensor:
        return preference(plain.sums(), reference) + 3 * plain.moved_from(before, plain.retain)

    assert_equal(pair, record, plain.trained(plain.parameters, loss, prune))


@pytest.mark.parametrize("tie", [True, False])
def test_embeddings_of_the_prompts_own_tokens_are_trained_and_nothing_else(tie: bool, tmp_path: Path) -> None:
    pair = model, plain = opened(write_tiny(tmp_path / "model", tie=tie))
    settings = embedding_only.EmbeddingOnlySettings(**STEPS, retain_weight=0.5, retain_loss="ce")
    record = embedding_only.unlearn(model, FACTS, RETAIN, settings)
    embedding = plain.model.get_input_embeddings().weight  # type: ignore[operator]
    asked = {token for each in plain.forget for token in each.prompt}
    own = sorted(asked - {token for each in plain.retain for token in each.prompt + each.answer})
    assert 0 < len(own) < len(asked)
    start, reference = embedding.detach().clone(), plain.sums().detach()

    def hold() -> None:
        changed = embedding[own].clone()
        embedding.copy_(start)
        embedding[own] = changed

    def loss(step: int) -> Tensor:
        return preference(plain.sums(), reference) + 0.5 * plain.loss_on(plain.retain)

    assert_equal(pair, record, plain.trained([embedding], loss, hold))
    assert record.changed["token_ids"] == own


def test_undo_adds_noise_of_each_matrix_own_size_and_distils_what_the_unlearned_model_says(
    pair: Pair, tmp_path: Path
) -> None:
    """Prompts are distilled too. A distillation that trains nothing shows the noise."""
    model, plain = pair
    settings = undo.UNDOSettings(**STEPS, noise=0.3, distil_steps=4, distil_rate=1e-30)
    unlearned, noised = open_model(tmp_path / "model"), open_model(tmp_path / "model")
    npo.unlearn(unlearned, FACTS, RETAIN, npo.NPOSettings(**STEPS))
    undo.unlearn(noised, FACTS, RETAIN, settings)
    draws = []
    for (name, now), then in zip(noised.model.named_parameters(), unlearned.model.parameters(), strict=True):
        if name in plain.blocks():
            draws.append(((now - 0.7 * then) / (0.3 * then.std())).detach().flatten())
            assert draws[-1].std().item() == pytest.approx(1.0, abs=4 / math.sqrt(2 * len(draws[-1])))
        else:
            assert torch.equal(now, then), name
    pooled = torch.cat(draws)
    assert abs(pooled.mean().item()) < 4 / math.sqrt(len(pooled))
    assert pooled.abs().median().item() == pytest.approx(0.6745, abs=0.03)  # of a normal distribution

    record = undo.unlearn(model, FACTS, RETAIN, replace(settings, distil_rate=RATE))
    whole = [Tokens(each.prompt[:1], each.prompt[1:] + each.answer) for each in plain.retain]
    with torch.no_grad():
        taught = [replace(plain, model=unlearned.model).distributions(each).half().float() for each in whole]
    set_to(plain, [*noised.model.parameters()])
    assert_equal(pair, record, plain.trained(plain.parameters, lambda step: plain.moved_from(taught, whole)), first=4)


@pytest.mark.parametrize("loss", ["npo", "gradient_ascent"])
def test_the_worst_case_is_found_by_projected_descent_and_its_answers_are_forgotten(
    loss: Literal["npo", "gradient_ascent"], pair: Pair
) -> None:
    model, plain = pair
    settings = worst_case.WorstCaseSettings(
        **STEPS, rounds=2, selection_steps=2, loss=loss, retain_weight=0.5, forget_batch=2
    )
    record = worst_case.unlearn(model, FACTS, RETAIN, settings)
    start, weights = plain.weights(), np.full(4, 0.5)

    def losses(examples: Sequence[Tokens]) -> Tensor:
        return torch.stack([-plain.said(each).mean() for each in examples])

    for _ in range(2):
        batches = batches_of_both(4, 3, settings, torch.Generator().manual_seed(0))
        for batch, _ in islice(batches, 2):  # of two each, which stand for all four
            own = losses([plain.forget[at] for at in batch])
            weighted = torch.tensor(weights[batch] / 2).float() @ own * 2
            plain.model.zero_grad()
            torch.autograd.backward(0.5 * losses(plain.retain).mean() - weighted)
            set_to(plain, [value.detach() - RATE * value.grad.sign() for value in plain.parameters])  # type: ignore[union-attr]
        left = losses(plain.forget).detach().numpy().astype(float)
        set_to(plain, start)
        reached = weights - 0.1 * left
        shift = brentq(lambda t, at: np.clip(at - t, 0, 1).sum() - 2, -10, 10, args=(reached,), xtol=1e-13)
        weights = np.clip(reached - shift, 0, 1)
    order = np.argsort(-reached)
    ranked = record.changed["hardest_first"]
    assert [each["prompt"] for each in ranked] == [FACTS[at].prompt for at in order]
    assert [each["loss"] for each in ranked] == pytest.approx(left[order], rel=1e-3)

    worst = replace(plain, forget=[plain.forget[at] for at in order[:2]])
    with torch.no_grad():
        reference, before = worst.sums(), [plain.distributions(each) for each in plain.retain]

    def formula(step: int) -> Tensor:
        gone = preference(worst.sums(), reference) if loss == "npo" else -plain.loss_on(worst.forget)
        return gone + 0.5 * plain.moved_from(before, plain.retain)

    assert_equal(pair, record, plain.trained(plain.parameters, formula))


def test_ssd_scales_by_the_ratio_of_squared_gradients(pair: Pair) -> None:
    model, plain = pair
    ssd.unlearn(model, FACTS, RETAIN, ssd.SSDSettings(alpha=2.0, dampening=0.5))
    matrices = [*plain.blocks().values()]

    def importance(examples: Sequence[Tokens]) -> list[Tensor]:
        squares = [[each**2 for each in torch.autograd.grad(plain.loss_on([one]), matrices)] for one in examples]
        return [torch.stack(each).mean(dim=0) for each in zip(*squares, strict=True)]

    n_dampened = 0
    for matrix, own, other in zip(matrices, importance(plain.forget), importance(plain.retain), strict=True):
        dampened = own > 2 * other
        n_dampened += int(dampened.sum())
        with torch.no_grad():
            matrix[dampened] *= 0.5 * other[dampened] / own[dampened]
    assert n_dampened > 100
    for one, plain_one in zip(model.model.parameters(), plain.parameters, strict=True):
        close = torch.isclose(one, plain_one.detach(), rtol=1e-4, atol=1e-6)
        assert close.float().mean() > 0.999  # a ratio may be alpha but for rounding


# ---- the residual stream


def test_circuit_breakers_have_the_loss_and_the_gradient_of_their_paper(pair: Pair, tmp_path: Path) -> None:
    """On other weights than at the start, where the gradient is 0, and in the third of four steps.

    A token that begins several examples is turned once, and not if it begins one to retain.
    """
    model, plain = pair
    settings = circuit_breakers.CircuitBreakerSettings(**STEPS, retain_weight=3.0)
    rerouting = circuit_breakers._Rerouting(model, [2, 4], plain.forget, plain.retain, settings)

    def streams() -> list[list[dict[Text, Tensor]]]:
        return [[plain.states(each, layer) for each in (*plain.forget, *plain.retain)] for layer in (2, 4)]

    with torch.no_grad():
        rerouting.read(SILENT)
        before = streams()
    other = open_model(write_tiny(tmp_path / "other", seed=1, num_hidden_layers=6)).model
    for each in (model.model.requires_grad_(True), plain.model):
        each.load_state_dict(other.state_dict())
    turned, moved = [], []
    for now, then in zip(streams(), before, strict=True):
        kept = {text for each in now[4:] for text in each}
        gone = {text: (each[text], was[text]) for each, was in zip(now[:4], then[:4], strict=True) for text in each}
        turned += [torch.cosine_similarity(*both, dim=0) for text, both in gone.items() if text not in kept]
        norm = torch.stack([state.norm() for each in then for state in each.values()]).mean()
        held = [(each[text], was[text]) for each, was in zip(now[4:], then[4:], strict=True) for text in each]
        moved += [(one - other).norm() / norm for one, other in held]
    assert min(turned) < 0 < max(turned)
    loss = 6 / 8 * torch.stack(turned).clamp(min=0).mean() + 3 * 2 / 8 * torch.stack(moved).mean()
    found, _ = rerouting.step((2, ([2, 0, 3, 1], [5, 6, 4])))
    torch.testing.assert_close(found, loss)
    matrices = [[*each.blocks(5).values()] for each in (replace(plain, model=model.model), plain)]
    for gradient, wanted in zip(*map(torch.autograd.grad, (found, loss), matrices), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


def test_circuit_breakers_read_two_depths_and_train_the_matrices_up_to_the_second(pair: Pair) -> None:
    model, plain = pair
    record = circuit_breakers.unlearn(model, FACTS, RETAIN, circuit_breakers.CircuitBreakerSettings(**STEPS))
    assert record.settings["layers"] == [2, 4]
    pairs = zip(model.model.named_parameters(), plain.parameters, strict=True)
    assert {name for (name, now), then in pairs if not torch.equal(now, then)} == {*plain.blocks(5)}


def test_rmu_steers_each_token_of_its_own_and_holds_the_retained_ones(pair: Pair) -> None:
    """Tokens that begin several examples are as above; the value vectors of three blocks are trained."""
    model, plain = pair
    settings = rmu.RMUSettings(**STEPS, layer=4, steering=3.0, retain_weight=0.5)
    record = rmu.unlearn(model, FACTS, RETAIN, settings)
    drawn = torch.randn(16, generator=torch.Generator().manual_seed(settings.seed))
    with torch.no_grad():
        norms = torch.cat([plain.stream(each, 4) for each in plain.forget]).norm(dim=1)
        before = [plain.stream(each, 4) for each in plain.retain]
    target = 3 * norms.mean() * drawn / drawn.norm()

    def loss(step: int) -> Tensor:
        kept = {text for each in plain.retain for text in plain.states(each, 4)}
        own = {text: state for each in plain.forget for text, state in plain.states(each, 4).items()}
        steered = torch.stack([state - target for text, state in own.items() if text not in kept])
        held = torch.cat([plain.stream(each, 4) - then for each, then in zip(plain.retain, before, strict=True)])
        return steered.square().mean() + 0.5 * held.square().mean()

    vectors = [value for name, value in plain.blocks(5).items() if name[:14] > "model.layers.1" and "down" in name]
    assert len(vectors) == 3
    assert_equal(pair, record, plain.trained(vectors, loss))


def test_the_masquerade_is_the_distance_from_the_invented_names_stream(pair: Pair) -> None:
    model, plain = pair
    settings = masquerade.MasqueradeSettings(**STEPS, layer=1, retain_weight=0.5, retain_loss="ce")
    record = masquerade.unlearn(model, FACTS, RETAIN, settings)
    names = record.changed["names"]
    renamed = [replace(each, prompt=each.prompt.replace(each.subject, names[each.subject])) for each in FACTS]
    targets, n_tokens = [], []
    for own, other in zip(plain.forget, tokenize(model.tokenizer, renamed), strict=True):
        begin = next(at for at, (one, two) in enumerate(zip(own.inputs, other.inputs, strict=False)) if one != two)
        n_tokens.append(len(own.inputs) - begin)  # the invented name is no shorter
        targets.append(plain.stream(other, 1)[-n_tokens[-1] :].detach())

    def distance() -> Tensor:
        streams = [plain.stream(each, 1)[-n:] for each, n in zip(plain.forget, n_tokens, strict=True)]
        return (torch.cat(streams) - torch.cat(targets)).square().sum(dim=1).mean()

    before = distance().detach()
    losses = plain.trained(
        plain.blocks(2).values(), lambda step: distance() / before + 0.5 * plain.loss_on(plain.retain)
    )
    assert_equal(pair, record, losses)


def test_laf_leaves_the_plane_of_what_is_forgotten_and_is_aligned_with_what_is_retained(pair: Pair) -> None:
    model, plain = pair
    settings = laf.LAFSettings(**STEPS, layer=1, rank=2, tau=0.7, retain_weight=0.5, retain_loss="ce")
    record = laf.unlearn(model, FACTS, RETAIN, settings)

    def means() -> Tensor:
        every = [*plain.forget, *plain.retain]
        return torch.stack([plain.stream(each, 1)[len(each.prompt) - 1 :].mean(dim=0) for each in every])

    with torch.no_grad():
        first = means()
    centre, spread = first.mean(dim=0), first.std(dim=0, correction=0).norm()
    before = (first - centre) / spread

    def error(states: Tensor, of: Tensor) -> Tensor:
        """What the two directions of the largest variance of ``of`` leave of the states' squared lengths."""
        components = torch.linalg.eigh(of.T.cov(correction=0)).eigenvectors[:, -2:]
        centred = states - of.mean(dim=0)
        left: Tensor = centred.square().sum(dim=1) - (centred @ components).square().sum(dim=1)
        return left

    def loss(step: int) -> Tensor:
        now = (means() - centre) / spread
        c = 1 - (now * before).sum(dim=1) / now.norm(dim=1) / before.norm(dim=1)
        kept, gone = error(now[4:], before), error(now[:4], before[:4])
        unlearned = (kept / (kept + 1)).exp().mean() - (gone / (gone + 1)).exp().mean()
        aligned = torch.stack([(each.exp() / (c[:4] / 0.7).exp().mean()).log() for each in c[4:]]).mean()
        return unlearned + aligned + 0.5 * plain.loss_on(plain.retain)

    assert_equal(pair, record, plain.trained(plain.blocks(2).values(), loss))


def test_layer_wise_ascent_is_on_the_mean_of_what_the_head_says_after_each_block(taught: Pair) -> None:
    model, plain = taught
    record = layer_wise.unlearn(model, FACTS, RETAIN, layer_wise.LayerWiseSettings(**STEPS, retain_weight=0.5))
    with torch.no_grad():
        before = [plain.distributions(each) for each in plain.retain]
    network: Any = plain.model
    below_guessing = []

    def loss(step: int) -> Tensor:
        said = []
        for each in plain.forget:
            streams = torch.stack(plain.streams(each))[:, len(each.prompt) - 1 :]
            logprobs = network.lm_head(network.model.norm(streams)).log_softmax(dim=-1)
            said.append(logprobs[:, range(len(each.answer)), each.answer])
        losses = -torch.cat(said, dim=1).mean(dim=1)
        below_guessing.append(int((losses < math.log(320)).sum()))
        return -losses.clamp(max=math.log(320)).mean() + 0.5 * plain.moved_from(before, plain.retain)

    within = [value for name, value in plain.model.named_parameters() if name.startswith("model.layers.")]
    losses = plain.trained(within, loss)
    assert below_guessing[0] == 6 > below_guessing[-1]
    assert_equal(taught, record, losses)


def test_an_ignorant_teacher_teaches_its_distributions_and_how_strong_its_states_are(
    pair: Pair, tmp_path: Path
) -> None:
    model, plain = pair
    teacher = replace(plain, model=opened(write_tiny(tmp_path / "teacher", seed=1, num_hidden_layers=6))[1].model)
    settings = ignorant_teacher.IgnorantTeacherSettings(
        **STEPS, reference=str(tmp_path / "teacher"), activation_weight=0.3, retain_weight=0.5, retain_loss="kl"
    )
    record = ignorant_teacher.unlearn(model, FACTS, RETAIN, settings)

    def strengths(of: Plain) -> Tensor:
        """Mean square of the stream after each block where the answers' tokens are predicted."""
        read = [torch.stack(of.streams(each))[:, len(each.prompt) - 1 :] for each in of.forget]
        return torch.cat(read, dim=1).square().mean(dim=2)

    with torch.no_grad():
        taught, strong = [teacher.distributions(each) for each in plain.forget], strengths(teacher)
        before = [plain.distributions(each) for each in plain.retain]

    def loss(step: int) -> Tensor:
        moved = (strengths(plain) / strong - 1).square().mean()
        return plain.moved_from(taught, plain.forget) + 0.3 * moved + 0.5 * plain.moved_from(before, plain.retain)

    assert_equal(pair, record, plain.trained(plain.parameters, loss))


# ---- the loss of the answers


Formula = Callable[[Plain], Tensor]


def by_token(loss: Callable[[Tensor], Tensor]) -> Formula:
    """The mean over the answers' tokens of what ``loss`` makes of their log-probabilities."""
    return lambda plain: loss(torch.cat([plain.said(each) for each in plain.forget])).mean()


def simnpo(plain: Plain) -> Tensor:
    per_token = torch.stack([plain.said(each).mean() for each in plain.forget])
    return 2 / 0.1 * (1 + (0.1 * per_token + 0.2).exp()).log().mean()


def undial(plain: Plain) -> Tensor:
    """Cross-entropy to the model's own distribution with the answer's logit less 2."""
    distributions = torch.cat([plain.distributions(each) for each in plain.forget])
    lowered = distributions.exp()
    tokens = [token for each in plain.forget for token in each.answer]
    lowered[range(len(tokens)), tokens] *= math.exp(-2)
    return -(lowered / lowered.sum(dim=1, keepdim=True) * distributions).sum(dim=1).mean()


def ce_u(plain: Plain) -> Tensor:
    """Cross-entropy to the model's own distribution without the answer's token; first tokens are left out."""
    losses = []
    for each in plain.forget:
        for distribution, token in [*zip(plain.distributions(each), each.answer, strict=True)][1:]:
            others = torch.cat([distribution[:token], distribution[token + 1 :]])
            losses.append(-(others.exp() / others.exp().sum() * others).sum())
    return torch.stack(losses).mean()


def replaced_by(answers: Sequence[str]) -> Formula:
    """The loss of these answers in place of those to forget."""
    examples = [replace(each, answer=answer) for each, answer in zip(FACTS, answers, strict=False)]
    return lambda plain: plain.loss_on(encode(tokenizer(), each) for each in examples)


ALONE = {"retain_weight": 0.0}
FIRST: Mapping[str, tuple[Mapping[str, Any], Formula]] = {
    "gradient_ascent": ({}, by_token(lambda said: said)),
    "kl": ({}, by_token(lambda said: said)),
    "grad_diff": ({}, lambda plain: plain.loss_on(plain.retain) - plain.loss_on(plain.forget)),
    "wga": ({**ALONE, "beta": 0.3}, by_token(lambda said: said.exp() ** 0.3 * said)),
    "satimp": (
        {**ALONE, "beta1": 0.3, "beta2": 2.0},
        by_token(lambda said: said.exp() ** 0.3 * (1 - said.exp()) ** 2 * said),
    ),
    "npo": ({**ALONE, "beta": 0.5}, lambda plain: torch.tensor(4 * math.log(2))),
    "dpo": ({**ALONE, "beta": 0.5}, lambda plain: torch.tensor(2 * math.log(2))),
    "simnpo": ({**ALONE, "beta": 0.1, "delta": 0.2}, simnpo),
    "undial": ({"beta": 2.0}, undial),
    "ce_u": ({"skip_first": True}, ce_u),
    "idk": (ALONE, replaced_by(dpo.REFUSALS)),
    "relabelling": (ALONE, replaced_by([" Turin", " Milan, a city", " Rome", " Venice"])),
}
"""Options and the first loss; where the retain term is left in, it is that of the published method."""


@pytest.mark.parametrize("name", FIRST)
def test_the_first_loss_is_the_formulas_and_reads_the_settings(name: str, taught: Pair) -> None:
    model, plain = taught
    options, formula = FIRST[name]
    settings = replace(methods()[name].SETTINGS, steps=1, **options)  # type: ignore[call-arg]
    (row,) = methods()[name].unlearn(model, FACTS, RETAIN, settings, SILENT).trajectory
    with torch.no_grad():
        assert row["loss"] == pytest.approx(formula(plain).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["npo", "simnpo", "gradient_ascent"])
def test_the_multiplier_weighs_the_retain_term_of_the_next_step(name: LossName, taught: Pair) -> None:
    """With one example to forget, so that the forget loss follows from ``log_ratio``."""
    model, plain = taught
    answer = plain.said(plain.forget[2]).detach()
    settings = pdu.PDUSettings(**STEPS, loss=name, retain_weight=0.7, tolerance=0.01, dual_rate=2.0)
    multiplier = 0.7
    for row in pdu.unlearn(model, FACTS[2:3], RETAIN, settings).trajectory:
        ratio, said = row["log_ratio"], answer.sum().item() + row["log_ratio"]
        forgotten = {
            "npo": 20 * math.log(1 + math.exp(0.1 * ratio)),
            "simnpo": 0.8 * math.log(1 + math.exp(2.5 * said / len(answer))),
            "gradient_ascent": said / len(answer),
        }
        assert row["retain_weight"] == pytest.approx(multiplier)
        assert row["loss"] - multiplier * row["retain"] == pytest.approx(forgotten[name], rel=1e-4)
        multiplier = max(0.0, multiplier + 2 * (row["retain"] - 0.01))
    assert multiplier != 0.7
