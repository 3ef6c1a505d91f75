"""The errors of videokit. There is a class for each case that a caller handles differently.

    VideokitError
    ├── InvalidInput       an input of the caller is invalid: change it and try again
    ├── WeightsError       a weight file cannot be used: replace it, or correct the weights table
    │   ├── WeightsMissing     it is not on this machine and may not be fetched: fetch it first
    │   └── DownloadFailed     it could not be fetched: try again, or use another source
    ├── NotFinite          a network computed NaN or infinity: use other weights, or a higher precision
    ├── SigningError       a file cannot be signed: correct the certificate, the key or the time server's URL
    └── OutOfMemory        the device has too little memory for the request: lower what the message names

Messages say what was given, what is allowed and what to do. A programmer's mistake, such as a wrong dtype, raises
TypeError or ValueError, which are not part of this tree.
"""

from __future__ import annotations

MAX_FAULTS = 20  # in one message


class VideokitError(Exception):
    """Base of all errors of videokit."""


class InvalidInput(VideokitError):
    """One or more inputs of a prediction are invalid; `str()` has one line for each fault.

    `faults` has the same lines as a tuple.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class WeightsError(VideokitError):
    """A weight file is not what its name promises: wrong bytes, a missing key, a wrong shape."""


class WeightsMissing(WeightsError):
    """A weight file is not on this machine, and no connection may be opened to fetch it."""


class DownloadFailed(WeightsError):
    """A weight file could not be fetched from its source."""


class NotFinite(VideokitError):
    """A network computed NaN or infinity, which cannot be shown as a picture."""


class SigningError(VideokitError):
    """A file cannot be signed with the certificate and the key of the environment."""


class OutOfMemory(VideokitError):
    """The device has too little memory for the request; the next request starts clean."""


def raise_faults(*faults: str | None) -> None:
    """Raise InvalidInput if a fault is not None. The message has the first MAX_FAULTS, and the number of others."""
    found = [fault for fault in faults if fault is not None]
    if len(found) > MAX_FAULTS:
        found[MAX_FAULTS:] = [f"{len(found) - MAX_FAULTS} more faults"]
    if found:
        raise InvalidInput(*found)
