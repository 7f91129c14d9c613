"""A running model, filled from the checkpoint's tensors and compared with them bit for bit.

Why not ``from_pretrained``: it fills a missing tensor with random numbers and reports that in a log only. Here
transformers builds the empty model from the config, every parameter is filled exactly once from the checkpoint, and
each one is then compared with a fresh read of the file.

The only module that imports transformers, inside functions: what reads weights alone does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from audit.architectures import Architecture, Config
from audit.checkpoint import Checkpoint
from audit.checkpoint.config import read_config
from audit.errors import ModelError
from audit.models.memory import set_up_memory
from audit.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARED_HEADS = "TRANSFORMERS_SDPA_FORCE_GQA"
"""Setting of transformers: attention reads keys that heads share where they are, not a copy for each head. The CPU's
kernel can do this with any mask and the GPU's cannot; writing the answers to 500 prompts takes a fifth
less time."""
INTEGER_VIEW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> an integer type of that size, in which bits are compared, those of NaN too."""


@dataclass(frozen=True)
class RunningModel:
    """A model in evaluation mode with its tokenizer.

    Attributes:
        model: the model for causal language modelling; its parameters are the file's.
        context: the most tokens that it can read at once.
        window: how many tokens a sliding-window layer looks back; ``None`` if every layer sees all tokens.
        alibi: whether positions are biases counted from the attention mask (ALiBi), so that none can be passed.
        translate: maps the residual streams after all blocks into the last one's basis before a lens reads them
            (``lenses.tuned_lens``); ``None`` for the logit lens.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    architecture: Architecture
    context: int
    window: int | None
    alibi: bool = False
    translate: Callable[[Tensor], Tensor] | None = None

    @property
    def span(self) -> int:
        """The most tokens of a text that every layer can look back over."""
        return min(self.context, self.window or self.context)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device


class Bridge(Protocol):
    """What the audit uses of a model with TransformerLens' hook points."""

    def run_with_cache(
        self, input_ids: torch.Tensor, /, *, names_filter: Callable[[str], bool]
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Logits, and the activations at the hook points that the filter lets pass."""

    def run_with_hooks(
        self,
        input_ids: torch.Tensor,
        /,
        *,
        fwd_hooks: Sequence[tuple[str, Callable[..., torch.Tensor]]],
        return_type: str,
    ) -> torch.Tensor:
        """Logits, with the activation at each named hook point replaced by what its function returns."""


def load_tokenizer(path: Path, d_vocab: int | None = None) -> Tokenizer:
    """The tokenizer in a folder or in a GGUF file.

    Args:
        d_vocab: rows of the model's embedding; the tokenizer's vocabulary must fit them.

    Raises:
        ModelError: the tokenizer is absent, broken, comes with code of its own, or belongs to another model.
    """
    from transformers import AutoTokenizer

    folder, inside = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    if not path.exists():
        raise ModelError("no such tokenizer.", where=str(path), hint="Pass its folder with --tokenizer.")
    if not inside:
        _refuse_custom_code(folder)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **inside
        )
        highest = max(tokenizer.get_vocab().values())
    except Exception as error:  # any error of the library about a user's file
        raise ModelError(
            f"no tokenizer could be read ({_first_line(error)}).",
            where=str(path),
            hint="Pass the folder that holds tokenizer.json with --tokenizer.",
        ) from error
    if d_vocab is not None and not d_vocab / 2 <= highest + 1 <= d_vocab:  # padding never doubles a vocabulary
        raise ModelError(
            f"the tokenizer has {highest + 1:,} tokens, the model's embedding {d_vocab:,} rows: they do not "
            "belong together.",
            where=str(path),
            hint="Pass the model's own tokenizer with --tokenizer.",
        )
    return tokenizer


def load_model(
    checkpoint: Checkpoint,
    architecture: Architecture,
    config: Config,
    tokenizer: Tokenizer,
    device: str = "cpu",
    dtype: str = "float32",
) -> RunningModel:
    """The checkpoint as a model that runs.

    Args:
        architecture: that of this checkpoint (``identify``).
        dtype: number format to run in; weights stored in another one are converted.

    Raises:
        ModelError: the config does not make this model, the weights hold values that are not finite, or there is no
            such device.
    """
    if dtype not in DTYPES:
        raise ModelError(f"cannot run in {dtype}.", hint=f"Choose one of {', '.join(DTYPES)}.")
    os.environ[SHARED_HEADS] = "1" if device == "cpu" else "0"
    model = _empty(config, architecture, DTYPES[dtype], str(checkpoint.path))
    _require_device(device)
    if device == "cpu":
        set_up_memory(sum(parameter.nbytes for parameter in model.parameters()))
    _fill(model, checkpoint, architecture, torch.device(device))
    model.to(device)  # buffers
    model.eval().requires_grad_(False)
    verify(model, checkpoint)
    settings = model.config
    return RunningModel(
        model=model,
        tokenizer=tokenizer,
        architecture=architecture,
        context=_context(settings, architecture, str(checkpoint.path)),
        window=_window(settings),
        alibi=bool(
            getattr(settings, architecture.alibi) if isinstance(architecture.alibi, str) else architecture.alibi
        ),
    )


def _require_device(device: str) -> None:
    """Raises ModelError where no tensor can be made on ``device`` and read from it."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ModelError(
            f"cannot run on device {device!r} ({_first_line(error)}).", hint="Choose another --device."
        ) from error


def load_bridge(checkpoint: Checkpoint, architecture: Architecture, config: Config, tokenizer: Tokenizer) -> Bridge:
    """The same model with TransformerLens' hook points: a ``TransformerBridge``, in float32 on the CPU.

    TransformerLens changes the model that it is given and uses eager attention, so this is a second copy of the model,
    and its logits differ from those of ``load_model`` by rounding.

    Raises:
        ModelError: see ``load_model``; or there is no config.json beside the weights, which TransformerLens needs.
    """
    if checkpoint.config_dir is None:
        raise ModelError("TransformerLens reads folders with a config.json.", where=str(checkpoint.path))
    from transformer_lens.model_bridge import TransformerBridge  # takes seconds to import

    loaded = load_model(checkpoint, architecture, config, tokenizer)
    bridge: Bridge = TransformerBridge.boot_transformers(
        str(checkpoint.config_dir), hf_model=loaded.model, tokenizer=tokenizer, device="cpu"
    )
    return bridge


def verify(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Compare every parameter with the file, one tensor at a time.

    Raises:
        ModelError: a parameter differs from the file's tensor (in the model's number format) in a bit, or a module is
            in training mode.
    """
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(f"module {training[0] or 'model'} is in training mode; its answers would be random.")
    for name, parameter in model.named_parameters():
        stored = checkpoint.parameter(name).to(parameter.dtype)
        view = INTEGER_VIEW[stored.element_size()]
        if not torch.equal(parameter.detach().cpu().view(view), stored.view(view)):
            raise ModelError(f"parameter {name} in memory differs from the file.", where=str(checkpoint.path))


def _empty(config: Config, architecture: Architecture, dtype: torch.dtype, where: str) -> PreTrainedModel:
    """The model that the config describes, with its buffers; parameters are not set yet."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    _refuse_auto_map(config, where)
    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"config.json has model_type {model_type!r}, which is not known.",
            where=where,
            hint="Pass the model's own config with --config.",
        )
    try:
        settings = CONFIG_MAPPING[model_type].from_dict({**config, "tie_word_embeddings": architecture.tied})
        attention = "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)]._supports_sdpa else "eager"
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(
                settings, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
        model.tie_weights()
    except Exception as error:  # any error of the library about a user's config
        raise ModelError(f"config.json does not make a model ({_first_line(error)}).", where=where) from error
    return model


def _fill(model: torch.nn.Module, checkpoint: Checkpoint, architecture: Architecture, device: torch.device) -> None:
    """Give every parameter its tensor, each exactly once."""
    tied_head = set(architecture.names("head")) if architecture.tied else set()
    expected = set(architecture.roles) - tied_head
    parameters = dict(model.named_parameters())
    needed = {stored for name in parameters for stored in checkpoint.stored_names(name)}
    where = str(checkpoint.path)
    if needed != expected:
        name = min(needed ^ expected)
        place = "in the file but not in the model" if name in expected else "in the model but not in the file"
        raise ModelError(f"{name} is {place} that config.json describes.", where=where)
    for name, parameter in parameters.items():
        tensor = checkpoint.parameter(name).to(device, parameter.dtype)
        if tensor.shape != parameter.shape:
            raise ModelError(
                f"{name} is {list(tensor.shape)} in the file but {list(parameter.shape)} by config.json.", where=where
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} holds values that are not finite; the model cannot be run.", where=where)
        parameter.data = tensor


def _window(settings: PreTrainedConfig) -> int | None:
    layer_types = getattr(settings, "layer_types", None)
    slides = layer_types is None or "sliding_attention" in layer_types
    window: int | None = getattr(settings, "sliding_window", None) if slides else None
    return window


def _context(settings: PreTrainedConfig, architecture: Architecture, where: str) -> int:
    key, default = architecture.context
    context = getattr(settings, key, default)
    if type(context) is not int or context < 1:
        raise ModelError(f"config.json has {key} = {context!r}, which is not a positive whole number.", where=where)
    return context


def _refuse_custom_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _refuse_auto_map(read_config(folder / name), str(folder / name))


def _refuse_auto_map(config: Config, where: str) -> None:
    if config.get("auto_map"):
        raise ModelError(
            f"asks to run code of its own ({', '.join(_strings(config['auto_map']))}), which is never done.",
            where=where,
            hint="Convert the model to a family that transformers ships.",
        )


def _strings(value: Any) -> Iterator[str]:
    """Every string in nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(entry)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]
