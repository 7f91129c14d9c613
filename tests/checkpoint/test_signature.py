"""OpenSSF model signatures: verified with the key that is passed, and not verified without one."""

from __future__ import annotations

import datetime
import importlib.util
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import signing
from typer.testing import CliRunner

import cli
from audit.checkpoint.signature import Trust, signatures
from audit.commands.check import check
from audit.errors import AuditError
from reports.text import render_check
from tests.tiny import write_tiny

PEM = serialization.Encoding.PEM


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model")


def key_pair(folder: Path, name: str) -> tuple[ec.EllipticCurvePrivateKey, Path, Path]:
    """A private key, and the files of it and of its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(PEM, *form))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return key, private, public


def sign(model: Path, private: Path) -> Path:
    signature = model / "model.sig"
    signing.Config().use_elliptic_key_signer(private_key=private).sign(model, signature)
    return signature


def test_a_signature_holds_for_its_key_and_names_it(model: Path, tmp_path: Path) -> None:
    _, private, public = key_pair(tmp_path, "maker")
    sign(model, private)
    checked = check([model], trust=Trust(public))
    (signature,) = checked.paths[0].signatures
    assert (signature.file, signature.state) == ("model.sig", "holds")
    assert "key of sha256" in signature.detail
    assert checked.sound


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_file_does_not_match_the_signature(model: Path, tmp_path: Path, file: str) -> None:
    _, private, public = key_pair(tmp_path, "maker")
    sign(model, private)
    text = (model / file).read_bytes()
    (model / file).write_bytes(text[:-5] + bytes([text[-5] ^ 1]) + text[-4:] if file != "config.json" else text + b"\n")
    checked = check([model], trust=Trust(public))
    assert checked.paths[0].signatures[0].state == "fails"
    assert file in checked.paths[0].signatures[0].detail
    assert not checked.sound
    assert "does not match its signature" in render_check(checked)


def test_an_added_file_does_not_match_the_signature(model: Path, tmp_path: Path) -> None:
    _, private, public = key_pair(tmp_path, "maker")
    sign(model, private)
    (model / "generation_config.json").write_text("{}")
    assert next(signatures(model, Trust(public))).state == "fails"


def test_the_key_of_another_signer_does_not_verify(model: Path, tmp_path: Path) -> None:
    _, private, _ = key_pair(tmp_path, "maker")
    _, _, other = key_pair(tmp_path, "other")
    sign(model, private)
    assert next(signatures(model, Trust(other))).state == "fails"


def test_without_a_key_a_signature_is_not_verified_and_not_an_error(model: Path, tmp_path: Path) -> None:
    _, private, _ = key_pair(tmp_path, "maker")
    sign(model, private)
    checked = check([model])
    assert checked.sound
    assert checked.paths[0].signatures[0].state == "not verified"
    assert "--public-key" in render_check(checked)


def test_without_the_library_a_signature_is_not_verified(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, private, public = key_pair(tmp_path, "maker")
    sign(model, private)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (signature,) = signatures(model, Trust(public))
    assert signature.state == "not verified"
    assert "unlearning-audit[signatures]" in signature.detail


@pytest.mark.parametrize("content", ["", "not json", "{}", '{"mediaType": "x", "dsseEnvelope": {"payload": "e30="}}'])
def test_a_file_that_is_not_a_signature_fails(model: Path, tmp_path: Path, content: str) -> None:
    (model / "model.sig").write_text(content)
    _, _, public = key_pair(tmp_path, "maker")
    assert next(signatures(model, Trust(public))).state == "fails"


def test_a_certificate_is_followed_to_its_root(model: Path, tmp_path: Path) -> None:
    root_key, _, _ = key_pair(tmp_path, "root")
    key, private, _ = key_pair(tmp_path, "maker")
    root = certificate("root", root_key, "root", root_key, tmp_path)
    leaf = certificate("maker", key, "root", root_key, tmp_path)
    signing.Config().use_certificate_signer(
        private_key=private, signing_certificate=leaf, certificate_chain=[root]
    ).sign(model, model / "model.sig")
    assert next(signatures(model, Trust(certificates=(root,)))).state == "holds"
    other_key, _, _ = key_pair(tmp_path, "other")
    other = certificate("other", other_key, "other", other_key, tmp_path)
    assert next(signatures(model, Trust(certificates=(other,)))).state == "fails"


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, folder: Path
) -> Path:
    """A certificate for ``name``, its own root where it issues itself."""
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    now = datetime.datetime.now(datetime.UTC)
    is_root = name == issuer
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=is_root, crl_sign=is_root, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(signed.public_bytes(PEM))
    return path


def test_a_key_and_certificates_together_are_refused(tmp_path: Path) -> None:
    _, _, public = key_pair(tmp_path, "maker")
    with pytest.raises(AuditError, match="not by both"):
        Trust(public, (public,))
    with pytest.raises(AuditError, match="no such key"):
        Trust(tmp_path / "absent.pub")


def test_the_command_reports_signatures_in_its_exit_code_and_json(model: Path, tmp_path: Path) -> None:
    _, private, public = key_pair(tmp_path, "maker")
    sign(model, private)
    run = CliRunner()
    shown = run.invoke(cli.app, ["check", str(model), "--public-key", str(public), "--json", "--quiet"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["paths"][0]["signatures"][0]["state"] == "holds"
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert run.invoke(cli.app, ["check", str(model), "--public-key", str(public), "--quiet"]).exit_code == 1
