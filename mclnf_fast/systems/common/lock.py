"""A lock on a run's folder: two processes that write one folder would destroy each other's state."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import platform

from mclnf_fast.errors import InputError

FILE = ".lock"
# Of this process: a run that ended in an error is resumed by the next one, whose lock must not wait for it.
_held: dict[pathlib.Path, io.TextIOWrapper] = {}


def lock(folder: pathlib.Path) -> None:
    """Lock a folder for this process, until `unlock` or the end of the process, however it ends.

    Raises InputError that names the process, if another one holds it.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> lock(folder)
    >>> unlock(folder)
    """
    unlock(folder)
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = folder / FILE
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held open)
        try:
            # By the operating system: it ends with the process, so that a kill leaves no folder locked for ever.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise InputError(f"out: {folder} is being written by {holder}: wait for it, or stop it") from None
        except OSError:
            file.close()  # file systems without locks
            return
        if _is_at(file, path):
            break
        file.close()  # the former holder has removed it in between
    file.truncate(0)
    file.write(json.dumps({"process": os.getpid(), "machine": platform.node()}))
    file.flush()
    _held[folder.resolve()] = file


def unlock(folder: pathlib.Path) -> None:
    """Give the folder back, if this process holds it."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        # Removed while it is held: a process that waits for it looks whether it is still there.
        with contextlib.suppress(OSError):
            (folder / FILE).unlink()
        file.close()


def _is_at(file: io.TextIOWrapper, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _holder(file: io.TextIOWrapper) -> str:
    file.seek(0)
    try:
        about = json.loads(file.read())
        return f"process {about['process']} on {about['machine']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"
