"""The errors that the package raises beside `ValueError`, `TypeError` and `IndexError`."""

import torch


class InputError(ValueError):
    """Raised if data, a file or an option from outside is unusable; the message names it, what it must be and what it
    was.

    The command line prints the message as one line and ends with exit code 2.
    """


class BackendError(RuntimeError):
    """Raised if a backend that was asked for by name cannot serve the call; the message has the reason and the
    remedy."""


class DeviceMemoryError(torch.OutOfMemoryError):
    """Raised if a device's memory is too small for the tensors that an op holds beside its results.

    The message names the op, the memory asked for, the memory that was free, and the remedy. `except
    torch.OutOfMemoryError` catches it.
    """
