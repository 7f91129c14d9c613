"""Open a model: its weight files with their architecture, config and tokenizer, each determined once.

Opening reads headers, no values. The tokenizer is loaded when it is first needed, because transformers takes seconds to
import and what reads weights alone does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audit.architectures import Architecture, Config, identify, why_unknown
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint.config import own_config, read_config
from audit.errors import ModelError
from audit.models.loading import Bridge, RunningModel, load_bridge, load_model, load_tokenizer
from audit.models.tokenizer import Tokenizer

NO_TOKENIZER = "no tokenizer lies beside the weights; pass its folder with --tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class TokenizerFiles:
    """Where a model's tokenizer is read from.

    Attributes:
        path: a folder, or a GGUF file with a tokenizer inside.
        d_vocab: rows of the model's embedding, which the tokenizer must fit; ``None`` where they are unknown.
        missing: the reason if there is no tokenizer at ``path``.
    """

    path: Path
    d_vocab: int | None
    missing: str | None = None

    @classmethod
    def beside(cls, checkpoint: Checkpoint, d_vocab: int | None) -> TokenizerFiles:
        """The tokenizer beside the weights, if there is one."""
        if checkpoint.format == "gguf":
            return cls(checkpoint.files[0], d_vocab)
        folder = checkpoint.files[0].parent
        exists = any((folder / name).is_file() for name in TOKENIZER_FILES)
        return cls(folder, d_vocab, None if exists else NO_TOKENIZER)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.path, self.d_vocab)


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """One model's weight files, and what is needed to read and to run them; nothing here is loaded yet.

    Attributes:
        architecture: ``None`` if the tensor names belong to no supported family.
        config: ``None`` if there is no config.json.
    """

    checkpoint: Checkpoint
    architecture: Architecture | None
    config: Config | None
    tokenizer_files: TokenizerFiles

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was named or is beside the weights; reading it may still fail."""
        return self.tokenizer_files.missing is None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """``None`` if no tokenizer was named and none is beside the weights.

        Raises:
            ModelError: it cannot be read or belongs to another model.
        """
        return self.tokenizer_files.tokenizer if self.has_tokenizer else None

    @property
    def missing(self) -> dict[str, str]:
        """``"architecture"``, ``"config"``, ``"tokenizer"`` -> the reason, for each that is missing."""
        reasons = {}
        if self.architecture is None:
            reasons["architecture"] = why_unknown(self.checkpoint, self.config)
        if self.config is None:
            error = _no_config(self.checkpoint)
            reasons["config"] = f"{error.message} {error.hint}"
        if self.tokenizer_files.missing is not None:
            reasons["tokenizer"] = self.tokenizer_files.missing
        return reasons

    def require_architecture(self) -> Architecture:
        """Raises ModelError if it is missing."""
        if self.architecture is None:
            raise ModelError(why_unknown(self.checkpoint, self.config), where=str(self.checkpoint.path))
        return self.architecture

    def require_config(self) -> Config:
        """Raises ModelError if it is missing."""
        if self.config is None:
            raise _no_config(self.checkpoint)
        return self.config

    def require_tokenizer(self) -> Tokenizer:
        """Raises ModelError if it is missing, cannot be read or belongs to another model."""
        return self.tokenizer_files.tokenizer

    def load(self, device: str = "cpu", dtype: str = "float32") -> RunningModel:
        """The model, ready to run.

        Raises:
            ModelError: its architecture, config or tokenizer is missing, or see ``load_model``.
        """
        architecture, config, tokenizer = self._parts()
        return load_model(self.checkpoint, architecture, config, tokenizer, device, dtype)

    def bridge(self) -> Bridge:
        """The model with TransformerLens' hook points, see ``load_bridge``.

        Raises:
            ModelError: as ``load``; or the weights are a lone file.
        """
        return load_bridge(self.checkpoint, *self._parts())

    def _parts(self) -> tuple[Architecture, Config, Tokenizer]:
        return self.require_architecture(), self.require_config(), self.require_tokenizer()


def open_model(path: Path, config: Path | None = None, tokenizer: Path | None = None) -> OpenedModel:
    """The model in ``path``, a weight file or a folder.

    Args:
        config, tokenizer: folders or files, if not those beside the weights.

    Raises:
        CheckpointError: a file that cannot be trusted or read.
        ModelError: a config that cannot be read.
    """
    checkpoint = open_checkpoint(path)
    return with_config(checkpoint, read_config(config) if config is not None else own_config(checkpoint), tokenizer)


def with_config(checkpoint: Checkpoint, config: Config | None, tokenizer: Path | None = None) -> OpenedModel:
    """A checkpoint that is open already, with ``config``.

    Raises:
        CheckpointError: the tensors are of a known family but not a whole model of it.
    """
    architecture = identify(checkpoint, config)
    d_vocab = architecture.d_vocab if architecture is not None else None
    named = None if tokenizer is None else TokenizerFiles(tokenizer, d_vocab)
    return OpenedModel(checkpoint, architecture, config, named or TokenizerFiles.beside(checkpoint, d_vocab))


def _no_config(checkpoint: Checkpoint) -> ModelError:
    return ModelError(
        "no config.json beside the weights.", where=str(checkpoint.path), hint="Pass its folder with --config."
    )
