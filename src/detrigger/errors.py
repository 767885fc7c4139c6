"""Everything detrigger raises on purpose.

DetriggerError
├── UsageError          the caller asked for something that does not exist (exit code 4)
└── InputError          a file or an array that cannot be used (exit code 2)
    ├── ModelError      the model: unreadable, unsafe, or not a classifier of such images
    ├── DataError       the images or labels
    └── OutputError     a place to write to

Every message is one line: what was got, what was wanted, what to do.
"""

from __future__ import annotations


class DetriggerError(Exception):
    """Base of all errors that detrigger raises on purpose."""


class UsageError(DetriggerError):
    """The caller asked for a method, class or option that does not exist."""


class InputError(DetriggerError):
    """A file or an array that cannot be used as it is."""


class ModelError(InputError):
    """The model cannot be read safely, does not fit its architecture, or is not such a classifier."""


class DataError(InputError):
    """The images or labels cannot be used."""


class OutputError(InputError):
    """The place to write to cannot be written."""
