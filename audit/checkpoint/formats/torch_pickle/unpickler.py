"""An unpickler that makes records and calls nothing that the pickle names."""

from __future__ import annotations

import pickle
import re
from typing import Any, BinaryIO

from .records import SAVE_AS_SAFETENSORS, Global, RefusedFile, Storage, is_allowed, storage_dtype


class RecordUnpickler(pickle.Unpickler):
    """Reads one pickle into records.

    Attributes:
        foreign: names in it that a state dict does not need.
        storages: by their key in the file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.foreign: list[str] = []
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Global:
        full_name = re.sub(r"^__builtin__\.", "builtins.", f"{module}.{name}")
        if not is_allowed(full_name):
            self.foreign.append(full_name)
        return Global(full_name)

    def persistent_load(self, reference: Any) -> Any:
        match reference:
            case ("module", Global() as kind, *_):  # the class of a pickled model, in the older format
                return kind
            case ("storage", Global() as kind, str() as key, _, int() as numel, *view) if view in ([], [None]):
                storage = Storage(storage_dtype(kind.name) or "", key, numel)
                if storage.dtype and numel >= 0 and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise RefusedFile("its pickle refers to its numbers in an unknown way.", SAVE_AS_SAFETENSORS)

    def read(self) -> Any:
        """The content of the pickle.

        Raises:
            RefusedFile: it names callables that a state dict does not need; the message names them.
        """
        try:
            content = self.load()
        except Exception:  # a call of a foreign name may fail in any way; the name is what matters then
            if not self.foreign:
                raise
        if self.foreign:
            raise _foreign_names(list(dict.fromkeys(self.foreign)))
        return content


def _foreign_names(names: list[str]) -> RefusedFile:
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if any(name.startswith(("torch.nn.", "transformers.")) for name in names):
        return RefusedFile(f"a pickled model ({listed}), not a state dict.", SAVE_AS_SAFETENSORS)
    return RefusedFile(f"its pickle would call {listed}; it was not loaded.", SAVE_AS_SAFETENSORS)
