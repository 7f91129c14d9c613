"""A model that is edited in place: the files it was loaded from, the running model, and how the edited one is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audit.architectures import Architecture, Config
from audit.checkpoint.runtime_parameters import under_stored_names
from audit.checkpoint.saving import save_model
from audit.errors import ModelError
from audit.models.loading import RunningModel
from audit.models.opening import OpenedModel, open_model
from audit.request import RunContext


@dataclass(frozen=True)
class EditableModel:
    """A running model that may be edited, and its files, which stay as they are.

    Attributes:
        config: config.json or its folder, where it was named.
    """

    opened: OpenedModel
    model: RunningModel
    config: Path | None = None

    @torch.no_grad()
    def round_as_stored(self) -> bool:
        """Give each weight the value that it will have when it is saved; whether any is another than in the files."""
        checkpoint, changed = self.opened.checkpoint, False
        state = under_stored_names(self.model.model.state_dict(), checkpoint.runtime_parameters)
        for name in state.keys() & checkpoint.tensors.keys():
            stored = state[name].to(checkpoint.tensors[name].dtype)
            state[name].copy_(stored)
            changed = changed or not torch.equal(stored.cpu(), checkpoint.tensor(name))
        return changed

    def save(self, target: Path, record: Mapping[str, Any]) -> Path:
        """Write the model as it is now; see ``checkpoint.saving.save_model``."""
        return save_model(
            self.model.model,
            self.opened.checkpoint,
            target,
            record,
            config_dir=self.config,
            tokenizer_dir=self.opened.tokenizer_files.path,
        )


def open_editable(
    path: Path,
    config: Path | None = None,
    tokenizer: Path | None = None,
    context: RunContext = RunContext(),
    check: Callable[[Architecture], None] | None = None,
) -> EditableModel:
    """The model in ``path``, loaded.

    Args:
        config, tokenizer: folders, where they are not next to the weights.
        check: called before the weights are read; it raises if the edit is impossible.

    Raises:
        CheckpointError: quantised weights.
        ModelError: no supported family, a config of quantised weights, or a config, a tokenizer or a folder that an
            edited model needs is missing.
    """
    opened = open_model(path, config, tokenizer)
    _refuse_quantised(opened.require_config(), str(path))
    architecture = opened.require_architecture()
    if check is not None:
        check(architecture)
    if opened.checkpoint.config_dir is None and config is None:
        raise ModelError(
            f"a {opened.checkpoint.format} file has no config.json to save with an edited model.",
            where=str(path),
            hint="Pass the folder of a model as transformers saves it.",
        )
    opened.require_tokenizer()
    context.progress.step("Loading the model")
    return EditableModel(opened, opened.load(context.settings.device, context.settings.dtype), config)


def _refuse_quantised(config: Config, where: str) -> None:
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "no method named") if isinstance(quantisation, dict) else "no object"
        raise ModelError(
            f"config.json has a quantization_config ({method}): a quantised model is not edited.",
            where=where,
            hint="Dequantise it, and save it in a floating-point format without this entry.",
        )
