"""The errors that the package raises beside `ValueError`, `TypeError` and `IndexError`, and their remedies.

It imports no torch: the command line needs it for `mclnf-fast --help`.
"""

EXTRAS = {
    "report": "matplotlib jinja2",
    "media": "av soundfile soxr",
    "ct": "scikit-image",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Extra of the package -> the packages that it installs, as in pyproject.toml."""


class InputError(ValueError):
    """Raised if data, a file or an option from outside is unusable; the message names it, what it must be and what it
    was.

    The command line prints the message as one line and ends with exit code 2.
    """


class BackendError(RuntimeError):
    """Raised if a backend that was asked for by name cannot serve the call; the message has the reason and the
    remedy."""


def pip_install(extra: str) -> str:
    """Return the command that installs the packages of an extra, for an error message.

    It names the packages themselves: `pip install 'mclnf-fast[report]'` fails as long as the package is not published.

    >>> pip_install("report")
    'pip install matplotlib jinja2'
    """
    return f"pip install {EXTRAS[extra]}"
