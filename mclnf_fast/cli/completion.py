"""Completion of command lines by the shell: `mclnf-fast --print-completion bash` prints a script for it."""

from __future__ import annotations

import pathlib
import shlex
import typing
from collections.abc import Iterable

from mclnf_fast.data import public_sets
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.systems.common.config_file import Option, options_of
from mclnf_fast.systems.registry import SYSTEMS, find_system, system_names

SHELLS = ("bash", "zsh")
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
_BASH = """\
_mclnf_fast() {
  local current=${COMP_WORDS[COMP_CWORD]} flag= words= k
  for ((k = COMP_CWORD - 1; k > 0; k--)); do  # an option may take several values
    [[ ${COMP_WORDS[k]} == --* ]] && flag=${COMP_WORDS[k]} && break
  done
  if ((COMP_CWORD == 1)); then
    words=@COMMANDS@
  elif ((COMP_CWORD == 2)); then
    case ${COMP_WORDS[1]} in
      run) words=@SYSTEMS@ ;;
      data) words=@DATA@ ;;
    esac
  elif [[ ${COMP_WORDS[1]} == run ]]; then
    case ${COMP_WORDS[2]}:$flag in
@VALUES@
    esac
    if [[ $current == -* ]]; then
      case ${COMP_WORDS[2]} in
@FLAGS@
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _mclnf_fast mclnf-fast
"""


def completion(shell: str, commands: Iterable[str]) -> str:
    """Return the script that completes commands, systems, options and their values; files where nothing is known.

    Args:
        shell: one of `SHELLS`.
        commands: of the command line.

    >>> "image-start" in completion("bash", ["run"])
    True
    """
    flags, values = [], []
    for name in SYSTEMS:
        config = type(find_system(name).functions()[1](name, []))
        options = [option for option in options_of(config) if option.flag not in config.flags_without_effect()]
        flags.append(f"        {name}) words={_quoted(f'--{option.flag}' for option in options)} ;;")
        named = {option.flag: known for option in options if (known := _values(option))}
        values += [f"      {name}:--{flag}) words={_quoted(known)} ;;" for flag, known in named.items()]
    script = _BASH
    for key, text in (
        ("COMMANDS", _quoted([*commands, "--help", "--version", "--print-completion"])),
        ("SYSTEMS", _quoted([*system_names(), "--help"])),
        ("DATA", _quoted(public_sets.sources())),
        ("VALUES", "\n".join(values)),
        ("FLAGS", "\n".join(flags)),
    ):
        script = script.replace(f"@{key}@", text)
    return _ZSH + script if shell == "zsh" else script


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


def _values(option: Option) -> list[str]:
    """Return the values that an option can have, if they have names."""
    return list(METHODS) if option.path == ("methods",) else _names(option.hint)


def _names(hint: object) -> list[str]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [str(argument) for argument in arguments]
    if hint is pathlib.Path:
        return []
    return [name for argument in arguments for name in _names(argument)]
