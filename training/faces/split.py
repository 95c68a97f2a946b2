"""Rows of one split, their folds, and images that cannot be decoded."""

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import datasets
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import ImageError, open_rgb
from affectnet_plus.releases.files import read_regular_file
from affectnet_plus.training.faces.face_cache import RESAMPLING, FaceCache

METADATA = ("subset", "age", "gender", "ethnicity", "head_pose", "landmarks_68", "landmarks_29", "valence", "arousal")
NO_AFFECT = -2  # where AffectNet has no valence or arousal
BY_NUMBER = "number of the row"


@dataclass
class Split:
    """Rows of one split: `labels` (N,) are indices into EXPRESSIONS (-1: none of them), `soft_labels` (N, 8) or None.

    `datasets` (N,) name the dataset that a row is of, where rows of several were joined. `known` (N, 8) are the
    expressions that whoever labelled a row could choose, by default all; where the classes are seven, nothing is known
    of the eighth, and its column of `soft_labels` is NaN.

    `ids` (N,) tell a row from all others of its split: `image_id` where there is such a column, else the name of the
    image file without its ending, else, where names are missing or come twice, the number of the row. `names` (N,) are
    those names of files, and where they are missing the ids. `metadata` has what the rows have of our other columns
    (`METADATA`), or is None. `contents` (N,) are hashes of the image files, where `read_contents` was called and could
    read them, and `folds_by` says what folds then go by. `cache` keeps decoded faces of one size. `votes` (N, 8) is how
    many people chose each expression, where that is known, else None.
    """

    name: str
    images: datasets.Dataset  # one column, undecoded
    labels: np.ndarray
    soft_labels: np.ndarray | None
    ids: np.ndarray
    names: np.ndarray
    id_source: str
    metadata: datasets.Dataset | None = None
    contents: np.ndarray | None = None
    folds_by: str | None = None  # "content" or "id", None: nobody has tried to read contents yet
    known: np.ndarray | None = None
    datasets: np.ndarray | None = None
    cache: FaceCache | None = None
    votes: np.ndarray | None = None

    def __post_init__(self):
        if self.known is None:
            self.known = np.ones((len(self.labels), len(EXPRESSIONS)), dtype=bool)

    @property
    def expressions(self) -> list[str]:
        """Those that are known of any row."""
        return [name for name, known in zip(EXPRESSIONS, self.known.any(axis=0), strict=True) if known]

    def read_contents(self) -> None:
        """Hash every image file, once: what `folds` go by where all of them can be read as files."""
        if self.folds_by is None:
            self.contents = self.hashes()
            self.folds_by = "id" if self.contents is None else "content"

    def hashes(self) -> np.ndarray | None:
        """(N,) a hash of each image file as it is stored; None where one of them cannot be read as a file."""
        hashes: list[int] = []
        try:
            with (
                ThreadPoolExecutor() as threads,
                tqdm(total=len(self), desc=f"hashing images of {self.name}", unit="image", leave=False) as progress,
            ):
                for rows in self.images.with_format("arrow").iter(1000):
                    hashes += threads.map(_hash_of_file, rows.column(0).to_pylist())
                    progress.update(len(rows))
        except OSError:
            return None
        return np.array(hashes, dtype=np.uint64)

    def folds(self, num_folds: int, by: str | None = None) -> np.ndarray:
        """(N,) the fold of each row, 0 to `num_folds` - 1, by a hash that is the same everywhere.

        By "content", that of its image file: copies of a picture are in one fold, whatever their ids and splits. By
        "id", that of split and id. By default by content where the files can be read; `ValueError` where that is asked
        for and they cannot.
        """
        if by != "id":
            self.read_contents()
        if by == "content" and self.contents is None:
            raise ValueError(
                f"The images of {self.name} cannot be read as files, and the experts' folds go by their content: label "
                "a copy of the dataset that lies on this machine."
            )
        if (by or self.folds_by) == "content":
            return (self.contents % np.uint64(num_folds)).astype(int)
        return np.array([hash_of(f"{self.name}/{row_id}".encode()) % num_folds for row_id in self.ids])

    def select(self, rows: np.ndarray) -> "Split":
        soft_labels = None if self.soft_labels is None else self.soft_labels[rows]
        metadata = None if self.metadata is None else self.metadata.select(rows)
        contents = None if self.contents is None else self.contents[rows]
        columns = {name: getattr(self, name)[rows] for name in ("labels", "ids", "names", "known")}
        for name in ("datasets", "votes"):
            columns[name] = None if getattr(self, name) is None else getattr(self, name)[rows]
        return dataclasses.replace(
            self,
            images=self.images.select(rows),
            soft_labels=soft_labels,
            metadata=metadata,
            contents=contents,
            cache=None if self.cache is None else self.cache.select(rows),
            **columns,
        )

    def rows_by_dataset(self) -> dict[str, int]:
        """Empty where all rows are of one dataset."""
        names, counts = ([], []) if self.datasets is None else np.unique(self.datasets, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def without_fold(self, fold: int, num_folds: int) -> "Split":
        return self.select(np.flatnonzero(self.folds(num_folds) != fold))

    def affect(self) -> np.ndarray:
        """(N, 2) float32 annotated valence and arousal, NaN where unknown."""
        affect = np.full((len(self), 2), np.nan, dtype="float32")
        for column, name in enumerate(("valence", "arousal")):
            if self.metadata is not None and name in self.metadata.features:
                values = self.metadata[name][:]
                affect[:, column] = [np.nan if value in (None, NO_AFFECT) else value for value in values]
        return affect

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, row: int) -> dict:
        """The undecoded image: `path`, `bytes`, one of which may be None."""
        (stored,) = self.images[row].values()
        return stored

    def image(self, row: int) -> Image.Image:
        """Decoded, upright RGB; raises `ValueError` naming the file."""
        stored = self.stored(row)
        name = stored["path"] or f"image of row {row} in {self.name}"
        return open_rgb(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"]), name)

    def scaled_image(self, row: int, size: tuple[int, int]) -> Image.Image:
        """The same, of this (width, height); decoded once where there is a cache of that size."""
        if self.cache is None or self.cache.size != size:
            return self.image(row).resize(size, RESAMPLING)
        if (face := self.cache.read(row)) is None:
            face = self.image(row).resize(size, RESAMPLING)
            self.cache.write(row, face)
        return face


def indices_among(expressions: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Labels (N,), indices of EXPRESSIONS, as indices of some of these; -1 for others and where there was none."""
    places = np.full(len(EXPRESSIONS) + 1, -1)
    places[match_expressions(expressions)] = np.arange(len(expressions))
    return places[labels]


def hash_of(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _hash_of_file(stored: dict) -> int:
    if stored["bytes"] is None and stored["path"] is None:
        raise FileNotFoundError("A row has no image.")
    return hash_of(read_regular_file(stored["path"]) if stored["bytes"] is None else stored["bytes"])


def broken_images(split: Split) -> dict[int, ImageError]:
    """{row: what is wrong} of the images that cannot be decoded, in the order of the rows."""
    problems = {}

    def look(row: int) -> None:
        try:
            split.image(row)
        except ImageError as error:
            problems[row] = error

    with ThreadPoolExecutor() as threads:
        rows = tqdm(range(len(split)), desc=f"looking for broken images in {split.name}", unit="image", leave=False)
        list(threads.map(look, rows))
    return dict(sorted(problems.items()))


def without_broken_images(split: Split) -> Split:
    """Only the rows whose image can be decoded; a warning counts and names the others."""
    problems = broken_images(split)
    if not problems:
        return split
    first = " ".join(map(str, list(problems.values())[:3]))
    warnings.warn(f"{len(problems)} broken image(s) of {split.name} left out: {first}", stacklevel=2)
    return split.select(np.array([row for row in range(len(split)) if row not in problems], dtype=int))
