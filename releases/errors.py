"""What can be wrong with a release, and with a row of it."""

import os
import shutil

from datasets.exceptions import DatasetGenerationError

from .files import shortened


class ReleaseError(DatasetGenerationError, ValueError):
    """A release that cannot be read, said in one sentence with the cure.

    A `DatasetGenerationError` because `datasets` would hide any other error behind "An error occurred while
    generating the dataset"; a `ValueError` because that is what it is to everybody else.
    """


def unwritable(path: str, error: OSError) -> ReleaseError:
    """What is said where something cannot be written to the cache of `datasets`."""
    place = path
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    reason = error.strerror or "No space left on device"  # numpy has no errors of its own for it
    return ReleaseError(
        f"{path} cannot be written ({reason}; {shutil.disk_usage(place).free / 1e6:,.1f} MB are free): set "
        "HF_DATASETS_CACHE to a folder on another disk."
    )


class Damage(Exception):
    """What is wrong with one row: `kind` is one of `KINDS`, `what` are words that follow the name of the file.

    They repeat no more than a few words of what the file holds; this is a last resort.
    """

    def __init__(self, what: str, kind: str = "unreadable annotation", path: str = ""):
        what = shortened(what, 400)
        super().__init__(what)
        self.what, self.kind, self.path = what, kind, path

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


# What can be wrong, in the order in which `affectnet-plus check` tells it.
KINDS = (
    "damaged archive",
    "image without annotation",
    "annotation without image",
    "unreadable annotation",
    "value out of range",
    "unreadable image",
    "truncated image",
)
