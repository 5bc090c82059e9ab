"""The signature of a detector: who made it, and that its files are as they were made.

`SHA256SUMS` lists the files that decide predictions, and `SHA256SUMS.sig` is an Ed25519 signature
of it (RFC 8032), so that `sha256sum -c` and `openssl pkeyutl -verify -rawin` check them, too.
"""

from pathlib import Path
from typing import Any

from violence_detection.errors import UserError, failing_as
from violence_detection.runs.files import CONFIG, DETECTOR
from violence_detection.storage.files import file_sha256, read_json, write_bytes

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"


def sign(folder: Path, key: Path) -> list[str]:
    """Sign the detector in a checkpoint directory; return the names of the files.

    Args:
        folder: of a finished run.
        key: private Ed25519 key, a PEM file without a password.

    Raises:
        UserError: the key is none; a file of the detector is missing.
        RunError: the signature cannot be written.
    """
    private = _key(key, private=True)
    names = _names(folder)
    sums = _sums(folder, names)
    signature = private.sign(sums)
    write_bytes(folder / SUMS, sums)
    write_bytes(folder / SIGNATURE, signature)
    return names


def verify(folder: Path, key: Path) -> None:
    """Check that a detector is the one that the owner of a key has signed.

    Args:
        folder: of the detector.
        key: public Ed25519 key, a PEM file.

    Raises:
        UserError: there is no signature, it is of another key, or a file is not as it was signed.
    """
    public = _key(key, private=False)
    from cryptography.exceptions import InvalidSignature

    try:
        sums, signature = (folder / SUMS).read_bytes(), (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise UserError(
            f"--verify {key}: {folder} has no signature ({SUMS}, {SIGNATURE})"
        ) from error
    try:
        public.verify(signature, sums)
    except InvalidSignature as error:
        raise UserError(f"--verify {key}: {folder} was not signed with this key") from error
    signed = sums.decode(errors="replace").splitlines()
    for line in _sums(folder, _names(folder)).decode().splitlines():
        if line not in signed:
            name = line.partition("  ")[2]
            raise UserError(f"--verify {key}: {folder / name} is not as it was signed")


def _names(folder: Path) -> list[str]:
    model = read_json(folder / DETECTOR)["model"]
    return [DETECTOR, model, CONFIG]


def _sums(folder: Path, names: list[str]) -> bytes:
    lines = []
    for name in names:
        with failing_as(folder / name, "read"):
            lines.append(f"{file_sha256(folder / name)}  {name}\n")
    return "".join(lines).encode()


def _key(path: Path, private: bool) -> Any:
    """Return the key in a PEM file; raises `UserError`."""
    flag = "--key" if private else "--verify"
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (
            Ed25519PrivateKey,
            Ed25519PublicKey,
        )
        from cryptography.hazmat.primitives.serialization import (
            load_pem_private_key,
            load_pem_public_key,
        )
    except ImportError as error:
        raise UserError(
            f"{flag} needs the package cryptography: pip install -r requirements-deploy.txt"
        ) from error
    try:
        content = path.read_bytes()
        key = load_pem_private_key(content, None) if private else load_pem_public_key(content)
    except (OSError, ValueError, TypeError) as error:
        kind = "private" if private else "public"
        raise UserError(f"{flag} {path}: no {kind} key in a PEM file ({error})") from error
    if not isinstance(key, Ed25519PrivateKey if private else Ed25519PublicKey):
        raise UserError(f"{flag} {path}: must be an Ed25519 key")
    return key
