"""Weight file formats, one module each; ``open_file`` opens a file of any of them.

The formats form a fixed list and not a folder of plugins: ``detection`` must decide between all of them from the same
first bytes, in an order that matters, and a new format changes ``Format``, which reports and results name.
"""

from __future__ import annotations

from pathlib import Path

from audit.checkpoint.formats.detection import detect_format
from audit.checkpoint.formats.gguf_file import GgufFile
from audit.checkpoint.formats.safetensors import open_safetensors
from audit.checkpoint.formats.torch_file import open_torch
from audit.checkpoint.weight_file import WeightFile


def open_file(path: Path) -> WeightFile:
    """Open one weight file; its content decides the format, whatever its name.

    Raises:
        CheckpointError: not a weight file, or damaged, or unsafe.
    """
    match detect_format(path):
        case "safetensors":
            return open_safetensors(path)
        case "torch":
            return open_torch(path)
        case "gguf":
            return GgufFile(path)
