"""OpenSSF model signatures: whether the signature files in a model's folder are valid, and for which key.

The format is OpenSSF Model Signing v1: a Sigstore bundle whose statement lists every file of the folder with its
digest. The reference library verifies it. Without that library, or without a trusted key or certificate, the state is
*not verified*. Keyless signatures need Sigstore's own roots from the network and are not verified.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.errors import AuditError
from audit.result import Signature

PATTERNS: Final = ("*.sig", "*.sigstore", "*.sigstore.json")
EXTRA: Final = "install unlearning-audit[signatures] to verify it"


@dataclass(frozen=True)
class Trust:
    """What signatures are verified with: an elliptic-curve public key (PEM), or a chain of certificates (PEM)."""

    public_key: Path | None = None
    certificates: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.public_key is not None and self.certificates:
            raise AuditError(
                "a signature is verified by a key or by certificates, not by both.", hint="Pass one of them."
            )
        for file in (self.public_key, *self.certificates):
            if file is not None and not file.is_file():
                raise AuditError("no such key or certificate.", where=str(file))

    def __bool__(self) -> bool:
        return self.public_key is not None or bool(self.certificates)

    def __str__(self) -> str:
        kind, files = ("key", [self.public_key]) if self.public_key else ("certificates", self.certificates)
        digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files if file is not None]
        return f"the {kind} of sha256 {', '.join(digests)}..."


def signatures(path: Path, trust: Trust = Trust()) -> Iterator[Signature]:
    """The signatures in the folder of ``path``; the name of a single file's signature begins with the file's name."""
    folder = path if path.is_dir() else path.parent
    for file in sorted({entry for pattern in PATTERNS for entry in folder.glob(pattern)}):
        if path.is_dir() or file.name.startswith(path.name):
            yield _verify(path, file, trust)
        else:
            yield Signature(file.name, "not verified", "it is a signature of the folder; check the folder")


def _verify(path: Path, file: Path, trust: Trust) -> Signature:
    if not trust:
        return Signature(
            file.name, "not verified", "pass a trusted key or certificate with --public-key or --certificate"
        )
    if importlib.util.find_spec("model_signing") is None:
        return Signature(file.name, "not verified", EXTRA)
    try:
        _verifier(trust, file).verify(path, file)
    except Exception as error:  # a malformed bundle may fail anywhere in the library; it is not valid then
        return Signature(file.name, "fails", f"{str(error).strip() or type(error).__name__}".splitlines()[0][:300])
    return Signature(file.name, "holds", f"every file is as signed, verified with {trust}")


def _verifier(trust: Trust, file: Path) -> Any:
    """The reference library's verifier. The signature file itself and git's folder are not part of the signed files."""
    from model_signing import hashing, verifying

    hashed = hashing.Config().set_ignored_paths(paths=[file.name]).set_allow_symlinks(True)
    config = verifying.Config().set_hashing_config(hashed)
    if trust.public_key is not None:
        return config.use_elliptic_key_verifier(public_key=trust.public_key)
    return config.use_certificate_verifier(certificate_chain=trust.certificates)
