"""The parts of an image's build; the whole, with Debian's and PyPI's mirrors, is run by hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.container import Image, Instruction, copy_into, exec_form, instructions, namespace


def has_namespaces() -> bool:
    if not (shutil.which("unshare") and shutil.which("chroot")):
        return False
    return subprocess.run([*namespace(), "true"], capture_output=True, check=False).returncode == 0


def test_instructions_are_read_with_their_continued_lines(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text('# A comment\nFROM base\n\nRUN one \\\n    && two\nCMD --x ["a", "b c"]\n')
    read = instructions(file)
    assert [line.name for line in read] == ["FROM", "RUN", "CMD"]
    assert read[1].arguments.split() == ["one", "&&", "two"]
    assert exec_form(read[2].arguments) == ["a", "b c"]


def test_what_is_not_in_the_context_cannot_be_copied(tmp_path: Path) -> None:
    copy_into(tmp_path, "serve.py ./")
    assert (tmp_path / "serve.py").is_file()
    with pytest.raises(FileNotFoundError, match=r"README\.md is not in the build context"):
        copy_into(tmp_path, "README.md ./")


@pytest.mark.skipif(not has_namespaces(), reason="no namespaces for users on this machine")
def test_steps_are_done_in_the_image_as_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of this machine")
    image = Image(tmp_path)
    for name in ("usr", "proc", "dev", "etc/ssl/certs"):
        (image.root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (image.root / name).symlink_to(f"usr/{name}")
    programs = {Path("/usr"): "/usr"}  # this machine's, in the place of a base system
    for name, arguments in [
        ("ENV", 'GREETING="good day" HOME=/tmp'),
        ("USER", "10001"),
        ("COPY", "serve.py ./"),
    ]:
        image.do(Instruction(name, arguments))
    shown = 'echo "$GREETING, $(id -u), $(ls serve.py), ${SECRET-none}"'
    command = image.inside(["sh", "-c", shown], image.user, volumes=programs)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "good day, 10001, serve.py, none\n"
    waits = "trap 'echo stopped; exit 0' TERM; echo waits; while :; do sleep 0.1; done"
    service = image.inside(["sh", "-c", waits], image.user, volumes=programs, until_input_ends=True)
    with subprocess.Popen(
        service, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "waits\n"
        process.stdin.close()
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0
