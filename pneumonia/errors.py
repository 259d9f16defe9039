"""The errors a user can cause or meet, each with the exit code it ends the program with.

A message is one line: what is wrong, with which value, and what to do about it.
"""

import difflib
from collections.abc import Iterable


class PneumoniaError(Exception):
    """Anything this package says no to. The command line shows the message and exits."""

    exit_code = 1


class UsageError(PneumoniaError):
    """A setting, an option or an experiment file asks for what does not exist."""

    exit_code = 2


class DataError(PneumoniaError):
    """The images cannot be used: a missing folder, one class only, an unreadable file."""


class LeakageError(DataError):
    """A patient, or an identical image, is in more than one split."""

    exit_code = 3


class LabelError(DataError):
    """Identical images are in both class folders."""

    exit_code = 3


class WeightsError(PneumoniaError):
    """Initial weights cannot be fetched or do not fit the network."""


class TrainingError(PneumoniaError):
    """Training cannot go on: the loss is not finite, or a checkpoint cannot be used."""


class DeviceError(PneumoniaError):
    """The device is out of memory."""


class PortError(PneumoniaError):
    """Another program listens on the port, or this user may not."""


class TrackingError(PneumoniaError):
    """The tracking server or store does not answer, or refuses what we ask."""


class ModelError(PneumoniaError):
    """A model URI names nothing, or what it names is not one of our models."""


class CheckError(PneumoniaError):
    """A check that the user asked for says no: nothing is wrong with the program or its input."""

    exit_code = 3


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Say which known names are meant: ``did you mean 'resnet34'?`` or the list of all."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
