"""The options of a system, read from a command line by tyro: defaults, `--config`, `--resume`, help and errors."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro

from mclnf_fast.cli.parser import help_width
from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.config_file import (
    from_plain,
    options_of,
    read_config,
    read_mapping,
    value_of,
    with_options,
)
from mclnf_fast.systems.common.folder import former_run
from mclnf_fast.systems.common.idle import Idle, name_idle
from mclnf_fast.systems.common.options import SystemConfig, option_value
from mclnf_fast.systems.common.renamed import refuse_renamed, refuse_unknown, with_new_names

C = TypeVar("C", bound=SystemConfig)
# One column of boxes, in which no flag with its values is broken: the text is filled again for the terminal.
_COLUMNS = 119


def read_options(name: str, defaults: Callable[[str, Sequence[str]], C], words: Sequence[str]) -> C | None:
    """Return the configuration of a command line; None if it asked for the help, which is printed.

    Args:
        name: of the system.
        defaults: makes the configuration that the words change, from the words.
        words: after the system's name.

    Raises InputError that names the option, if one is unknown, was renamed, or has a value that is none.
    """
    words = _with_resume(words)
    default = defaults(name, words)
    flags = [option.flag for option in options_of(type(default))]
    words = with_new_names(name, flags, words)
    refuse_renamed(name, flags, words)
    refuse_unknown(name, flags, words)
    file = option_value(words, "config", "")
    if file:
        default = _of_file(default, pathlib.Path(file), words)
    config = _parsed(name, default, words)
    if config is not None:
        _check_files(config)
        config.check()
        idle = config.idle() if config.run.resume is None else _other_than_resumed(config)
        for sentence in name_idle(config, default, idle):
            print(f"note: {sentence}", flush=True)
    return config


def _with_resume(words: Sequence[str]) -> list[str]:
    """Return the words with a value for a `--resume` that stands alone: the run in `--out`, or the newest one."""
    for k, word in enumerate(words):
        if word == "--resume" and (k + 1 == len(words) or words[k + 1].startswith("--")):
            return [*words[: k + 1], "auto", *words[k + 1 :]]
    return list(words)


def _of_file(default: C, file: pathlib.Path, words: Sequence[str]) -> C:
    """Return the options in a run's config.yaml, for a new run: it does not take over where the old one is kept."""
    for flag in ("quick", "preset", "resume"):
        if any(word.partition("=")[0] == f"--{flag}" for word in words):
            raise InputError(f"--config takes all options from {file}: it cannot stand beside --{flag}")
    config = read_config(type(default), file / "config.yaml" if file.is_dir() else file, "config")
    return with_options(config, {"out": None, "resume": None})


def _other_than_resumed(config: C) -> Idle:
    """Return the options of which the run to be resumed began with another value, which it keeps."""
    file = former_run(config.run.resumed, config.kind) / "config.yaml"
    former = from_plain(type(config), read_mapping(file, "resume"))
    places = ("out", "resume", "quick", "config")
    return {
        option.flag: f"with resume (the run began with {value_of(former, option)})"
        for option in options_of(type(config))
        if option.flag not in places and value_of(config, option) != value_of(former, option)
    }


def _check_files(config: SystemConfig) -> None:
    # Opening a pipe or a device waits for ever, or reads without end.
    for option in options_of(type(config)):
        value = value_of(config, option)
        if isinstance(value, pathlib.Path) and value.exists() and not (value.is_file() or value.is_dir()):
            raise InputError(f"{option.flag} must be a file or a folder, got {value}, which is a pipe or a device")


def _parsed(name: str, default: C, words: Sequence[str]) -> C | None:
    # With an encoding, without which tyro draws its boxes in other characters.
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    try:
        with _columns(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(type(default), args=list(words), default=default, prog=f"mclnf-fast run {name}")
    except SystemExit as end:
        if end.code:
            raise InputError(f"run {name}: {_sentence(_text(err) or _text(out))}") from None
    text = _text(out)
    # What tyro prints besides the help is a script for shells (--tyro-print-completion): as it is.
    hidden = type(default).flags_without_effect()
    print(filled(text, help_width(), hidden) if text.startswith("usage:") else text, end="")
    return None


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


@contextlib.contextmanager
def _columns() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_COLUMNS)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _sentence(panel: str) -> str:
    """Return the error in tyro's panel as a sentence."""
    lines = [line.strip(" │") for line in panel.splitlines() if line.strip() and line.strip()[0] not in "╭╰"]
    # Below the rule stands the option's help, which --help shows too.
    ends = next((k for k, line in enumerate(lines) if line.startswith("──")), len(lines))
    text = " ".join(" ".join(lines[:ends]).split())
    text = re.sub(r"\[/?bold\]|\{None\}\||- <class 'NoneType'>: .*? choices \('None',\) ", "", text)
    return text.rstrip(".") or "the options cannot be read"


def filled(text: str, width: int, hidden: Sequence[str] = ()) -> str:
    """Return tyro's help, which stands in boxes, as plain lists that are filled to a width.

    Args:
        text: tyro's help.
        width: in columns.
        hidden: flags without dashes that are left out.

    An option without a default is shown without "None", which nobody needs to type.

    >>> box = "╭─ run options ─╮\\n│ --out {None}|PATH     Run folder.     │\\n│           (default: None) │\\n╰───╯"
    >>> print(filled(box, 60))
    run options:
      --out PATH          Run folder.
    """
    lines: list[str] = []
    entry: list[str] = []  # the lines of one option, or of what its group is
    for line in [*text.splitlines(), ""]:
        head = re.match(r"╭─ (.*?) ─+╮", line)
        inside = line.strip("│").strip()
        # An entry ends where the next one begins, or its box ends.
        if entry and (not line.startswith("│") or inside.startswith(("-", "─"))):
            flag = re.split(r"[ ,]", entry[0])[0].lstrip("-")
            lines += _option(entry, width) if flag not in hidden else []
            entry = []
        if line.startswith("│"):
            entry += [inside] * (not inside.startswith("─"))
        elif head or not line.startswith(("╭", "╰")):
            lines += ["", f"{head[1]}:"] if head else textwrap.wrap(line, width) or [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def _option(entry: Sequence[str], width: int) -> list[str]:
    flag, _, about = entry[0].partition("  ")
    about = " ".join(" ".join([about, *entry[1:]]).split())
    if not flag.startswith("-"):  # what the group is
        return textwrap.wrap(f"{flag} {about}", width, initial_indent="  ", subsequent_indent="  ")
    if about.endswith("(default: None)"):
        flag = re.sub(r"\{None\}\|(\{([A-Z ]+)\})?", r"\2", flag)
        about = about.removesuffix("(default: None)").rstrip()
    indent = " " * 22
    if len(flag) <= 18:
        return textwrap.wrap(about, width, initial_indent=f"  {flag:<20}", subsequent_indent=indent) or [f"  {flag}"]
    return [f"  {flag}", *textwrap.wrap(about, width, initial_indent=indent, subsequent_indent=indent)]
