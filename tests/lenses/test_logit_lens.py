"""After the last block the logit lens gives the model's own logits, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.lenses.logit_lens import readout
from audit.models.forward import Row, run
from tests.helpers import open_model
from tests.tiny import FAMILIES, write_tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_gives_the_logits_of_the_model(family: str, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / family, family))
    ids, tokens = (5, 9, 40, 77), torch.tensor([3, 200, 17])
    (batch,) = run(model, [Row(ids, len(ids) - 1)])
    last, first = (readout(model, tokens).read(batch.residual[layer, 0]) for layer in (-1, 0))
    torch.testing.assert_close(last, batch.logits[0, tokens], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, last, atol=1e-2)


def test_a_readout_is_a_copy_that_stays_as_it_is_when_the_model_changes(tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "m"))
    tokens, residual = torch.tensor([3, 200, 17]), torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    copied = readout(model, tokens)
    before = copied.read(residual)
    with torch.no_grad():
        model.model.model.norm.weight.mul_(3)
        model.model.lm_head.weight.neg_()
    assert torch.equal(copied.read(residual), before)
    assert not torch.allclose(readout(model, tokens).read(residual), before)
