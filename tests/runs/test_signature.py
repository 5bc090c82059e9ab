import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from violence_detection.commands.predict import main as predict
from violence_detection.commands.sign import main as sign_command
from violence_detection.errors import UserError
from violence_detection.runs.signature import SIGNATURE, SUMS, sign, verify


def written_keys(folder: Path, name: str, private: Any = None) -> tuple[Path, Path]:
    """Return the files of a private and a public key."""
    private = private or Ed25519PrivateKey.generate()
    paths = folder / f"{name}.pem", folder / f"{name}_public.pem"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    paths[1].write_bytes(private.public_key().public_bytes(pem, form))
    return paths


@pytest.fixture
def signed(finished: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a copy of a finished run, signed, and the keys."""
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    private, public = written_keys(tmp_path, "own")
    assert sign_command(["--checkpoint-dir", str(run), "--key", str(private)]) == 0
    return run, private, public


def test_signed_detector_is_verified_before_it_predicts(
    signed: tuple[Path, Path, Path],
    drawn_clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _, public = signed
    clip = str(drawn_clips / "test" / "violent" / "violent0.mp4")
    command = [clip, "--checkpoint-dir", str(run), "--verify"]
    assert predict([*command, str(public)]) == 0
    _, other = written_keys(tmp_path, "other")
    assert predict([*command, str(other)]) == 2
    assert "not signed with this key" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["detector.json", "best_model.keras", "training_config.json"])
def test_changed_file_is_named(signed: tuple[Path, Path, Path], name: str) -> None:
    run, _, public = signed
    verify(run, public)
    content = (run / name).read_bytes()
    (run / name).write_bytes(content + b"\n")
    with pytest.raises(UserError, match=rf"{name} is not as it was signed"):
        verify(run, public)


@pytest.mark.parametrize("name", [SUMS, SIGNATURE])
def test_changed_and_missing_signatures_are_refused(
    signed: tuple[Path, Path, Path], name: str
) -> None:
    run, _, public = signed
    content = bytearray((run / name).read_bytes())
    content[3] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match="not signed with this key"):
        verify(run, public)
    (run / name).unlink()
    with pytest.raises(UserError, match="has no signature"):
        verify(run, public)


def test_files_that_are_no_ed25519_keys_are_refused(
    signed: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run, private, public = signed
    for wrong in (private, tmp_path / "none.pem", run / "detector.json"):
        with pytest.raises(UserError, match="no public key"):
            verify(run, wrong)
    with pytest.raises(UserError, match="no private key"):
        sign(run, public)
    with pytest.raises(UserError, match="Ed25519"):
        sign(run, written_keys(tmp_path, "curve", generate_private_key(SECP256R1()))[0])


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_signature_is_that_of_openssl(signed: tuple[Path, Path, Path]) -> None:
    run, _, public = signed
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    command += ["-in", str(run / SUMS), "-sigfile", str(run / SIGNATURE)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    check = ["sha256sum", "-c", SUMS]
    assert subprocess.run(check, cwd=run, check=False, capture_output=True).returncode == 0
