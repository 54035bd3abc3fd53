"""Completion by the shell, as bash itself does it with the script that is printed."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
from test_cli import refusal

from mclnf_fast.cli import main
from mclnf_fast.systems import registry


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> pathlib.Path:
    assert main(["--print-completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["r"], ["run"]),
        (["run", "s"], ["single-view"]),
        (["run", ""], [*registry.system_names(), "--help"]),
        (["run", "city", "--bl"], ["--blocks"]),
        (["run", "city", "--init", ""], ["meta", "random"]),
        (["run", "city", "--methods", "mod", "mim", "er", "mod_"], ["mod_random", "mod_even"]),
        (["run", "single-view", "--adapt.optimizer", "a"], ["adam"]),
        (["run", "ct", "--initializations", "st"], ["standard"]),
        (["run", "image", "--writers", "t"], ["tensorboard"]),
        (["run", "city", "--data", "x"], []),  # then bash names files
        (["run", "ct", "--meta.ke"], []),  # has no effect there
        (["data", "k"], ["kodak"]),
    ],
)
def test_what_bash_proposes(script, line, words):
    typed = " ".join(f"'{word}'" for word in ["mclnf-fast", *line])
    state = f"COMP_WORDS=({typed}); COMP_CWORD={len(line)}"
    code = f"source {script}; {state}; _mclnf_fast; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == words
    assert done.stderr == ""


def test_zsh_and_others(capsys):
    assert main(["--print-completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert "--print-completion must name one of bash, zsh, got fish" in refusal(capsys, "--print-completion", "fish")
    assert "got none" in refusal(capsys, "--print-completion")
