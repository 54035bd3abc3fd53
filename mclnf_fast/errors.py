"""The errors that the package raises beside `ValueError`, `TypeError` and `IndexError`."""

import torch


class InputError(ValueError):
    """Data, a file or an option from outside is unusable; the message names it, what it must be and what it was.

    The command line prints the message as one line and ends with exit code 2.
    """


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot serve the call; the message says why and what to do."""


class DeviceMemoryError(torch.OutOfMemoryError):
    """A device's memory is too small for what an op holds beside its results; the message says what asked, for how
    much, what there was and what helps. `except torch.OutOfMemoryError` catches it."""
