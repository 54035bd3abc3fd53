"""The one place in which the error of a command becomes one line and an exit code.

What a user can mend (an option, a file, the environment, a full disk) is reported in one line with exit code 2. An
error of the program itself is one line too, with exit code 1; its traceback goes into a file for a report.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence

from mclnf_fast import cache
from mclnf_fast.errors import BackendError, InputError

TRACEBACK = "MCLNF_FAST_TRACEBACK"
UNUSABLE, BUG, INTERRUPTED = 2, 1, 130
# C++ checks these too, but with a RuntimeError, and some of them only at the first large tensor.
_ALLOWED = {
    "MCLNF_FAST_ISA": (r"avx512|avx2|neon|portable", "avx512, avx2, neon or portable"),
    "MCLNF_FAST_BF16_DOT": (r"[01]", "0 or 1"),
    "MCLNF_FAST_POOL_MB": (r"[0-9]{1,9}", "a whole number of megabytes below 1000000000"),
}
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "storage size calculation overflowed")


def guarded(command: Callable[[list[str]], int], words: Sequence[str]) -> int:
    """Run a command and return its exit code: its own; 2 unusable input; 1 an error of this program; 130 interrupted.

    Args:
        command: what to do with the words.
        words: of the command line, without the program's name.

    >>> guarded(lambda words: 0, [])
    0
    """
    try:
        check_words(words)
        check_environment(os.environ)
        code = command(list(words))
        # Here and not at the end of the process, where Python would only print "Exception ignored".
        if sys.stdout is not None:  # closed before the start: `>&-`
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _report("interrupted; --resume continues the run", INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        line = line_of(error)
        return _report(line, UNUSABLE) if line is not None else _report(_bug(error), BUG)


def line_of(error: Exception) -> str | None:
    """Return what to print of an error that the user can mend; None if it is the program's own.

    >>> line_of(InputError("steps must be at least 1, got 0"))
    'steps must be at least 1, got 0'
    >>> line_of(PermissionError(13, "Permission denied", "runs")), line_of(KeyError("x"))
    ('runs: Permission denied', None)
    """
    text = str(error)
    if isinstance(error, InputError | BackendError):
        return text
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read"
    if isinstance(error, MemoryError) or any(part in text.lower() for part in _NO_MEMORY):
        return f"the options need more memory than there is: {text or 'allocation failed'}"
    # Of the C++ library, which knows the processor: its checks have the file and the line before the sentence.
    variable = re.search(r"(the environment variable )?MCLNF_FAST_[A-Z0-9_]+.*", text)
    return variable[0] if isinstance(error, RuntimeError) and variable else None


def _of_system(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "the output was closed before its end"
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason += "; --resume continues a run when there is room"
    return f"{_shown(error.filename)}: {reason}" if error.filename is not None else f"the system reports: {reason}"


def _shown(name: object) -> str:
    # A path of 5,000 characters is itself the error: its ends are enough to recognize it.
    text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"


def check_words(words: Sequence[str]) -> None:
    """Raise InputError if a word of the command line is no text: it holds NUL, or bytes that are not UTF-8.

    >>> check_words(["run", "city"])
    """
    # What is on the command line goes into config.yaml, metrics.json and pages, which are UTF-8.
    for k, word in enumerate(words, start=1):
        if "\0" in word or not _is_utf8(word):
            raise InputError(f"argument {k} of the command line must be UTF-8 text without NUL, got {word!r:.200}")


def _is_utf8(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise InputError if a variable of this package has a value that is none.

    >>> check_environment({"MCLNF_FAST_ISA": "avx2"})
    >>> check_environment({"MCLNF_FAST_BF16_DOT": "yes"})
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: the environment variable MCLNF_FAST_BF16_DOT must be 0 or 1, got 'yes'
    """
    for name, (pattern, what) in _ALLOWED.items():
        value = environment.get(name, "")
        if value and re.fullmatch(pattern, value) is None:
            raise InputError(f"the environment variable {name} must be {what}, got {value!r:.200}")
    folder = environment.get(cache.VARIABLE)
    if folder:
        check_cache(folder)


def check_cache(folder: str) -> None:
    """Raise InputError if the folder of generated files is none and cannot become one.

    >>> check_cache("/")
    """
    try:
        path = pathlib.Path(folder).expanduser()
        reason = "it is a file" if path.exists() and not path.is_dir() else None
        if reason is None and any(p.exists() and not p.is_dir() for p in path.parents):
            reason = "a file stands in its way"
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error)
    if reason is not None:
        raise InputError(
            f"the environment variable {cache.VARIABLE} must be a folder, got {_shown(folder)!r}: {reason}"
        )


def _bug(error: Exception) -> str:
    """Keep the traceback of an error of this program, and return the line about it."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="mclnf-fast-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"internal error: {reason} ({TRACEBACK}=1 shows where)"
    return f"internal error, please report it with {file.name}: {reason}"


def _report(text: str, code: int) -> int:
    # A pipe that is closed, or a full disk, is no place for what is still buffered: Python would try again at its end.
    for stream in (stream for stream in (sys.stdout, sys.stderr) if stream is not None):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_nowhere(stream)
    line = f"mclnf-fast: {' '.join(text.split())}"
    with contextlib.suppress(OSError, ValueError):
        print(line.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)
    return code


def _to_nowhere(stream: object) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()  # type: ignore[attr-defined]  # streams of tests may have none
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
