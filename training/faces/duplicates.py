"""Pictures that are in a dataset more than once: the same file, or another file of nearly the same picture."""

from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

import datasets
import imagehash
import numpy as np
from PIL import Image

from affectnet_plus.releases.files import RASTER_FORMATS, read_regular_file
from affectnet_plus.releases.processes import end_if_given_up
from affectnet_plus.training.faces.split import hash_of

BITS, _BAND = 256, 16
NEAR = BITS // _BAND - 1  # bits: with that many changed, one of the bands is still the same
_SIDE = int(BITS**0.5)
_ONES = np.array([number.bit_count() for number in range(1 << _BAND)], dtype=np.uint8)


class Fingerprints(NamedTuple):
    """Of N images."""

    content: np.ndarray  # (N,) uint64: a hash of the file
    perceptual: np.ndarray  # (N, 16) uint16: the 256 bits of imagehash's pHash
    readable: np.ndarray  # (N,) bool: an image that decodes; elsewhere the other two are 0


def fingerprints(images: datasets.Dataset) -> Fingerprints:
    """Hash the files and the pictures of a dataset with one column, of undecoded images."""
    found = Fingerprints(
        np.zeros(len(images), np.uint64), np.zeros((len(images), _BAND), np.uint16), np.zeros(len(images), bool)
    )
    (column,) = images.column_names
    for row, stored in enumerate(images.with_format("arrow")[:][column].to_pylist()):
        end_if_given_up()
        try:
            content = read_regular_file(stored["path"]) if stored["bytes"] is None else stored["bytes"]
            with Image.open(BytesIO(content), formats=RASTER_FORMATS) as picture:
                picture.draft("L", (4 * _SIDE, 4 * _SIDE))  # what pHash looks at: JPEGs are decoded no larger
                bits = imagehash.phash(picture, hash_size=_SIDE).hash
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        found.content[row], found.readable[row] = hash_of(content), True
        found.perceptual[row] = np.packbits(bits.ravel()).view(np.uint16)
    return found


def joined_fingerprints(parts: Iterable[Fingerprints]) -> Fingerprints:
    """Those of several parts, one after the other."""
    return Fingerprints(*map(np.concatenate, zip(*parts, strict=True)))


def near_duplicates(found: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different files of nearly the same picture: at most `NEAR` of 256 bits of their pHash differ.

    Of copies of one file only the first is looked at. Two pictures that differ in so few bits have at least one of 16
    bands of 16 bits in common, so that only pictures that share a band are compared.

    Args:
        found: of N images; those that are not readable are in no pair.

    Returns:
        (P, 2) numbers of rows, the lower one first, sorted; and (P,) the bits in which they differ.
    """
    readable = np.flatnonzero(found.readable)
    rows = np.sort(readable[np.unique(found.content[readable], return_index=True)[1]])
    hashes = found.perceptual[rows]
    found_pairs, found_bits = [np.empty((0, 2), int)], [np.empty(0, int)]
    for place, band in enumerate(hashes.T):
        order = np.argsort(band, kind="stable")
        values, step, alike = band[order], 1, np.arange(len(rows))
        while len(alike := alike[alike + step < len(rows)]):
            alike = alike[values[alike] == values[alike + step]]
            pairs = np.sort([order[alike], order[alike + step]], axis=0)
            differing = hashes[pairs[0]] ^ hashes[pairs[1]]
            bits = _ONES[differing].sum(axis=1, dtype=int)
            new = (bits <= NEAR) & (differing[:, :place] != 0).all(axis=1)  # else found in an earlier band
            found_pairs.append(rows[pairs[:, new]].T)
            found_bits.append(bits[new])
            step += 1
    pairs, bits = np.concatenate(found_pairs), np.concatenate(found_bits)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], bits[order]
