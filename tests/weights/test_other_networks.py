"""Networks that are no language model: a regression network and a GAN unlearn part of their data, and are audited.

What changed is named, what did not is bit-equal, and the outputs change on what was forgotten alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from audit.commands.compare import compare
from audit.commands.verify import verify
from audit.errors import AuditError
from audit.result import AuditResult, TensorChange
from audit.weights.outputs import compare_outputs
from reports.html import render
from reports.text import render as text

State = Mapping[str, Tensor]


def minimise(parameters: Iterable[Tensor], loss: Callable[[], Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(list(parameters), lr=1e-2)
    for _ in range(steps):
        step(optimizer, loss())


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def audited(folder: Path, before: object, after: object) -> AuditResult:
    for name, content in (("before", before), ("after", after)):
        torch.save(content, folder / f"{name}.pt")
    return compare(folder / "before.pt", folder / "after.pt")


def changed(result: AuditResult) -> set[str]:
    return {row.name for row in result.weights.per_tensor if row.changed}


# ---- a regression network

RETAINED, FORGOTTEN = torch.linspace(-1, 0.4, 150)[:, None], torch.linspace(0.5, 1, 50)[:, None]


def curve_network() -> nn.Sequential:
    hidden = [nn.Linear(1, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(64, 1))


@cache
def fitted(seed: int) -> nn.Sequential:
    """A sine, learned from 200 points."""
    torch.manual_seed(seed)
    network, points = curve_network(), torch.linspace(-1, 1, 200)[:, None]
    minimise(network.parameters(), lambda: functional.mse_loss(network(points), torch.sin(3 * points)), 300)
    return network.eval()


@cache
def without_the_right() -> nn.Sequential:
    """Its last two layers trained to give 0 on the right, and elsewhere what they gave."""
    network = copy.deepcopy(fitted(0))
    points = torch.cat([RETAINED, FORGOTTEN])
    with torch.no_grad():
        wanted = torch.cat([network(RETAINED), torch.zeros_like(FORGOTTEN)])
    trained = [*network[3].parameters(), *network[5].parameters()]
    minimise(trained, lambda: functional.mse_loss(network(points), wanted), 300)
    return network


def curve(state: State, points: Tensor) -> Tensor:
    height: Tensor = functional_call(curve_network().eval(), dict(state), points)[:, 0]
    return height


def test_a_regression_networks_changed_layers_are_named_and_its_outputs_change_where_it_forgot(tmp_path: Path) -> None:
    before, after = fitted(0).state_dict(), without_the_right().state_dict()
    result = audited(tmp_path, before, after)
    assert changed(result) == {"3.weight", "3.bias", "5.weight", "5.bias"}
    assert all(row.changed != torch.equal(before[row.name], after[row.name]) for row in result.weights.per_tensor)
    files = tmp_path / "before.pt", tmp_path / "after.pt"
    kept, forgotten = (compare_outputs(curve, *files, points) for points in (RETAINED, FORGOTTEN))
    assert kept.distance < 0.2 < 0.9 < forgotten.distance
    assert forgotten.p_value < 1e-6 < 0.05 < kept.p_value
    assert (kept.n, forgotten.n) == (150, 50)
    assert compare_outputs(curve, str(files[0]), str(files[1]), RETAINED) == kept


def test_a_network_of_another_seed_has_like_outputs_and_does_not_pass_as_unchanged(tmp_path: Path) -> None:
    before, other = fitted(0).state_dict(), fitted(1).state_dict()
    points = torch.cat([RETAINED, FORGOTTEN])
    assert compare_outputs(curve, before, other, points).distance < 0.2
    result = audited(tmp_path, before, other)
    assert result.weights.identical is False
    assert changed(result) == before.keys() - {"1.num_batches_tracked"}
    assert measured(result, "weight_change") > 0.5


def measured(result: AuditResult, metric: str) -> float:
    (found,) = [row for row in result.weights.measurements if row.metric == metric]
    assert found.value is not None
    return found.value


def test_the_page_and_the_terminal_say_which_tensors_changed_and_ask_for_no_concept(tmp_path: Path) -> None:
    result = audited(tmp_path, fitted(0).state_dict(), without_the_right().state_dict())
    (finding,) = result.findings
    assert finding.verdict == "inconclusive"
    assert "not what the network computes" in finding.reason
    assert "concept" not in finding.would_reverse
    said = " ".join(text(result).split())
    assert "4 of 11 tensors differ" in said
    assert "Most in " in said
    assert all(name in said and name in render(result) for name in changed(result))


# ---- a GAN

IMAGES = 32


class Generator(nn.Module):
    """Noise ``[n, 4]`` and a class to images ``[n, 4, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, noise: Tensor, which: Tensor) -> Tensor:
        hidden = self.first(torch.cat([noise, functional.one_hot(which, 2).float()], 1)).relu().view(-1, 8, 2, 2)
        images: Tensor = torch.tanh(self.last(self.norm(self.up(hidden)).relu()))[:, 0]
        return images


class Discriminator(nn.Module):
    """Logits ``[n]`` of images being real ones of their class."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Linear(256, 1)

    def forward(self, images: Tensor, which: Tensor) -> Tensor:
        classes = functional.one_hot(which, 2).float()[:, :, None, None].expand(-1, -1, 4, 4)
        hidden = functional.leaky_relu(self.first(torch.cat([images[:, None], classes], 1)), 0.2)
        logits: Tensor = self.last(hidden.flatten(1))[:, 0]
        return logits


def real(which: Tensor) -> Tensor:
    """Images of which the left half is bright (class 0), or the right (class 1)."""
    right = torch.arange(4) > 1
    bright = torch.where((which[:, None] == 1) == right, 0.7, -0.7)[:, None, :]
    return bright + 0.15 * torch.randn(len(which), 4, 4)


@cache
def gan(seed: int) -> tuple[Generator, Discriminator]:
    torch.manual_seed(seed)
    networks = generator, discriminator = Generator(), Discriminator()
    first, second = (torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.5, 0.99)) for network in networks)
    for _ in range(150):
        which = torch.randint(0, 2, (IMAGES,))
        made = generator(torch.randn(IMAGES, 4), which)
        fake, true = discriminator(made.detach(), which), discriminator(real(which), which)
        step(second, functional.softplus(fake).mean() + functional.softplus(-true).mean())
        step(first, functional.softplus(-discriminator(made, which)).mean())
    return generator.eval(), discriminator.eval()


LEFT, RIGHT = torch.zeros(100, dtype=torch.long), torch.ones(100, dtype=torch.long)


@cache
def without_right_images() -> Generator:
    """Its first layer trained to make images of the left where the right is asked for, and there what it made."""
    generator, discriminator = copy.deepcopy(gan(0)[0]), gan(0)[1]
    noise = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        kept = generator(noise, LEFT)

    def loss() -> Tensor:
        as_left = functional.softplus(-discriminator(generator(noise, RIGHT), LEFT)).mean()
        return 100 * functional.mse_loss(generator(noise, LEFT), kept) + as_left

    minimise(generator.first.parameters(), loss, 200)
    return generator


def brightness(state: State, which: Tensor) -> Tensor:
    """How much brighter the right half of the images is than the left, from the generator's part of the file."""
    weights = {name.removeprefix("generator."): tensor for name, tensor in state.items() if "generator." in name}
    noise = torch.randn(len(which), 4, generator=torch.Generator().manual_seed(2))
    images = functional_call(Generator().eval(), weights, (noise, which))
    difference: Tensor = images[:, :, 2:].mean((1, 2)) - images[:, :, :2].mean((1, 2))
    return difference


def saved(generator: Generator, discriminator: Discriminator) -> dict[str, object]:
    """As training scripts save a GAN."""
    optimizer = torch.optim.Adam(generator.parameters())
    networks = {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}
    return {**networks, "optimizer": optimizer.state_dict(), "epoch": 3}


def test_a_gans_changed_layer_is_named_and_its_images_change_where_it_forgot(tmp_path: Path) -> None:
    generator, discriminator = gan(0)
    result = audited(tmp_path, saved(generator, discriminator), saved(without_right_images(), discriminator))
    assert changed(result) == {"generator.first.weight", "generator.first.bias"}
    assert {row.name.partition(".")[0] for row in result.weights.per_tensor} == {"generator", "discriminator"}
    files = tmp_path / "before.pt", tmp_path / "after.pt"
    kept, forgotten = (compare_outputs(brightness, *files, which) for which in (LEFT, RIGHT))
    assert kept.distance < 0.4 < 0.9 < forgotten.distance


def test_a_gan_of_another_seed_does_not_pass_as_unchanged(tmp_path: Path) -> None:
    result = audited(tmp_path, saved(*gan(0)), saved(*gan(1)))
    assert result.weights.identical is False
    assert {row.name for row in result.weights.per_tensor} - changed(result) == {"generator.norm.num_batches_tracked"}


# ---- tensors that are no matrices, and buffers


def test_the_update_of_a_kernel_has_a_rank_over_its_output_channels(tmp_path: Path) -> None:
    generator, discriminator = gan(0)
    edited = copy.deepcopy(discriminator)
    with torch.no_grad():
        edited.first.weight += torch.outer(torch.arange(16.0), torch.randn(27)).view(16, 3, 3, 3)
    result = audited(tmp_path, saved(generator, discriminator), saved(generator, edited))
    row = row_of(result, "discriminator.first.weight")
    assert row.shape == [16, 3, 3, 3]
    assert row.stable_rank == pytest.approx(1)
    assert row.flipped_8bit is not None
    assert row.flipped_8bit > 0.5
    assert measured(result, "update_rank") == pytest.approx(1)


def row_of(result: AuditResult, name: str) -> TensorChange:
    (row,) = [row for row in result.weights.per_tensor if row.name == name]
    return row


def test_running_statistics_and_counters_are_listed_and_do_not_count_as_change_of_the_weights(tmp_path: Path) -> None:
    before = fitted(0).state_dict()
    run_on = {"1.running_var": before["1.running_var"] + 1e4, "1.num_batches_tracked": torch.tensor(10**9)}
    result = audited(tmp_path, before, {**before, **run_on})
    assert changed(result) == set(run_on)
    assert result.weights.identical is False
    assert measured(result, "weight_change") == 0
    assert row_of(result, "1.num_batches_tracked").l2 is None
    variance = row_of(result, "1.running_var").l2
    assert variance == pytest.approx(1e4 * 8)
    trained = sum(value.numel() for name, value in before.items() if name not in run_on and "running" not in name)
    (found,) = [row for row in result.weights.measurements if row.metric == "weight_change"]
    assert found.n == trained


def test_counters_that_float32_does_not_tell_apart_are_changed(tmp_path: Path) -> None:
    before = {**fitted(0).state_dict(), "1.num_batches_tracked": torch.tensor(2**24)}
    result = audited(tmp_path, before, {**before, "1.num_batches_tracked": torch.tensor(2**24 + 1)})
    assert changed(result) == {"1.num_batches_tracked"}


@pytest.mark.parametrize("old", [True, False], ids=["weight_u", "_u"])
def test_what_spectral_normalisation_keeps_of_a_forward_pass_does_not_count_as_change(
    tmp_path: Path, old: bool
) -> None:
    normalise = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
    layer = normalise(nn.Linear(6, 6))
    before = copy.deepcopy(layer.state_dict())
    layer.train()(torch.randn(3, 6))
    result = audited(tmp_path, before, layer.state_dict())
    assert {name.rpartition(".")[2].removeprefix("weight") for name in changed(result)} == {"_u", "_v"}
    assert measured(result, "weight_change") == 0
    assert measured(audited(tmp_path, before, normalise(nn.Linear(6, 6)).state_dict()), "weight_change") > 0


def test_the_direction_of_weight_normalisation_is_trained(tmp_path: Path) -> None:
    before = {"weight_g": torch.ones(4, 1), "weight_v": torch.ones(4, 3)}
    assert measured(audited(tmp_path, before, {**before, "weight_v": torch.randn(4, 3)}), "weight_change") > 0


def test_tensors_without_a_counterpart_are_named_wherever_the_change_is_summed_up(tmp_path: Path) -> None:
    before = fitted(0).state_dict()
    replaced = {**before, "5.weight": torch.zeros(2, 64), "6.weight": torch.zeros(1)}
    result = audited(tmp_path, before, replaced)
    assert (result.weights.only_base, result.weights.only_unlearned) == (["5.weight"], ["5.weight", "6.weight"])
    assert result.weights.identical is False
    for said in (" ".join(text(result).split()), render(result)):
        assert "1 of the base (5.weight), 2 of the unlearned model (5.weight, 6.weight)." in said
    path = tmp_path / "result.json"
    result.write(path)
    assert verify(path).difference is None
    weights = result.weights.model_copy(update={"only_unlearned": []})
    result.model_copy(update={"weights": weights}).write(path)
    assert "weights.only_unlearned" in str(verify(path).difference)


def test_a_moving_average_that_alone_was_changed_does_not_pass_as_unchanged(tmp_path: Path) -> None:
    before, after = fitted(0).state_dict(), without_the_right().state_dict()
    result = audited(tmp_path, {"model": before, "ema": before}, {"model": before, "ema": after})
    assert result.weights.identical is False
    assert changed(result) == {"ema.3.weight", "ema.3.bias", "ema.5.weight", "ema.5.bias"}


def test_a_layer_that_was_zero_is_named_first(tmp_path: Path) -> None:
    before = {**fitted(0).state_dict(), "gate.weight": torch.zeros(3, 3)}
    after = {**without_the_right().state_dict(), "gate.weight": torch.ones(3, 3)}
    assert "Most in gate.weight, " in " ".join(text(audited(tmp_path, before, after)).split())


def test_a_matrix_without_entries_is_listed(tmp_path: Path) -> None:
    before = {**fitted(0).state_dict(), "none.weight": torch.zeros(0, 3), "kernel.weight": torch.zeros(3, 0, 2)}
    result = audited(tmp_path, before, before)
    assert result.weights.identical is True
    assert row_of(result, "none.weight").flipped_4bit is None


# ---- what cannot be compared


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(torch.zeros(3, 2), r"shape \[3, 2\]"), (torch.zeros(1), r"shape \[1\]"), (torch.full((3,), torch.nan), "finite")],
    ids=["images", "one", "NaN"],
)
def test_outputs_that_are_not_one_finite_number_for_each_input_are_refused(outputs: Tensor, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        compare_outputs(lambda state, inputs: outputs, {}, {}, None)


def test_equal_outputs_have_no_distance() -> None:
    found = compare_outputs(lambda state, inputs: inputs, {}, {}, torch.arange(50.0))
    assert (found.distance, found.p_value) == (0, 1)
