"""Writes synthetic faces, their annotations and their truth in the layout of an AffectNet release."""

import operator
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from affectnet_plus import CATEGORIES, ETHNICITIES, EXPRESSIONS, GENDERS
from affectnet_plus.releases.find import UNFINISHED
from affectnet_plus.releases.processes import mapped
from affectnet_plus.releases.writing import moved_whole

from .action_units import ACTION_UNITS, MEAN_FACE, units_of
from .draw import camera, draw_face
from .identity import draw_identity
from .layouts import LAYOUTS, append_rows
from .nonface import draw_nonface
from .paint import ellipse, paint
from .truth import intensities_given, soft_label_of, subset_of, valence_arousal_of

# split -> images of each of `CATEGORIES` in AffectNet+. Its counts of the last three are known in sum only (127,148 and
# 1,501); their shares are those of AffectNet (Mollahosseini, Hasani & Mahoor, 2017).
SPLITS = {
    "train": (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750, 33088, 11645, 82415),
    "validation": (499, *[500] * 7, 500, 500, 501),
    "unannotated": None,
}
VALIDATION_FREQUENCIES = {"balanced": "validation", "train": "train"}  # whose frequencies of `SPLITS` are taken
_NONE, _NON_FACE = CATEGORIES.index("none"), CATEGORIES.index("non-face")
_CHUNK = 32
_PEOPLE, _SHOTS, _PLAN = range(len(SPLITS), len(SPLITS) + 3)  # random streams beside those of the faces of each split

_TRUTH = pa.schema(
    [("split", pa.string()), ("image_id", pa.int64())]
    + [(f"intensity_{name}", pa.float32()) for name in EXPRESSIONS]
    + [(f"AU{unit:02d}", pa.float32()) for unit in ACTION_UNITS]
    + [(angle, pa.float32()) for angle in ("yaw", "pitch", "roll")]
    + [("identity", pa.int64())]
)


def _labels(count: int, frequencies: tuple | None, rng: np.random.Generator) -> list[int | None]:
    """Human labels of a split: the real release's frequencies, but every category a few times where there is room."""
    if frequencies is None:
        return [None] * count
    quota = count * np.array(frequencies) / sum(frequencies)
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: count - counts.sum()]] += 1  # the largest remainders
    short = np.maximum(min(max(8, count // 50), count // 24, 100) - counts, 0)
    counts += short
    counts[counts.argmax()] -= short.sum()
    return rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()


def _landmarks_29(points: np.ndarray) -> np.ndarray:
    """29 points as COFW marks them (Burgos-Artizzu et al., 2013), taken from the 68.

    The contents of the release's own "landmark-29" were never seen; order and choice are ours: four of each brow; of
    each eye corners, top, bottom and pupil (its centre); nose wings, tip and base; mouth corners and the lips' edges;
    the chin.
    """

    def mean(*index):
        return points[list(index)].mean(axis=0)

    eyes = [
        (points[a], points[a + 3], mean(a + 1, a + 2), mean(a + 4, a + 5), mean(*range(a, a + 6))) for a in (36, 42)
    ]
    rest = points[[31, 35, 30, 33, 48, 54, 51, 62, 66, 57, 8]]
    return np.concatenate([points[[17, 18, 20, 21, 22, 23, 25, 26]], *eyes, rest])


def _scores(names: tuple, values: np.ndarray, rng: np.random.Generator) -> dict:
    """An attribute classifier's scores, two decimals."""
    values = np.clip(values + rng.normal(0, 0.02, len(values)), 0, None)
    return {name.replace("_", " "): round(float(v), 2) for name, v in zip(names, values / values.sum(), strict=True)}


def _spoil(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes a face hard to read, as those labelled "none": out of focus, covered, or badly lit."""
    size = image.shape[-1]
    way = rng.integers(4)
    if way == 0:
        sigma = rng.uniform(0.012, 0.025) * size
        return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in image])
    if way == 1:
        return image * np.float32(rng.choice([rng.uniform(0.15, 0.3), rng.uniform(1.8, 2.6)]))
    # a hand, a microphone, a scarf
    where = points[rng.choice([[48, 51, 54, 57], [36, 39, 31], [42, 45, 35]][rng.integers(3)])]
    colour, axis = rng.uniform(0.1, 0.8) * np.array([1, 0.85, 0.75]), rng.normal(0, 1, 2)
    axis *= rng.uniform(0.2, 0.3) * size / np.linalg.norm(axis)
    across = np.array([-axis[1], axis[0]])
    for k in range(-2, 3) if way == 2 else (0,):
        thick = 0.16 if way == 2 else 0.6
        shape = ellipse(where + 0.26 * k * across + 0.2 * axis, axis, thick * across)
        paint(image, shape + 0.01 * size, (0.4, 0.4, 0.4), 0.6, 0.015 * size, multiply=True)
        paint(image, shape, colour * rng.uniform(0.9, 1.05), 1, 0.004 * size)
    return image


def _pair(seed: int, split: str, index: int, label: int | None, identity_id: int, size: int) -> tuple:
    """One image (JPEG bytes), its annotation and its truth: a function of the seed and its place alone."""
    place = list(SPLITS).index(split)
    rng = np.random.default_rng((seed, place, index))
    person = draw_identity(np.random.default_rng((seed, _PEOPLE, identity_id)))
    pose = np.clip(rng.normal(0, (13, 8, 7)), (-38, -24, -24), (38, 24, 24))
    if label == _NON_FACE:
        intensities, truth = None, [None] * (len(_TRUTH) - 2)
        image = draw_nonface(rng, size)
        # What a detector that sees a face here might say.
        points = (MEAN_FACE[:, :2] * rng.uniform(0.004, 0.0055, 2) + rng.uniform(0.35, 0.65, 2) - (0, 0.15)) * size
        points += rng.normal(0, 0.02 * size, points.shape)
    else:
        if rng.random() < 0.1:
            pose[0] = rng.uniform(-38, 38)
        intensities = intensities_given(label, rng)
        units = units_of(intensities, person.gain, person.rest, person.contempt_side)
        image, points = draw_face(person, units, tuple(pose), rng, size)
        truth = [*intensities, *units.max(axis=1), *pose, identity_id]
    shot = np.random.default_rng((seed, _SHOTS, place, index))
    if label == _NONE:
        image = _spoil(image, points, shot)
    pixels = cv2.cvtColor(camera(image, shot), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(shot.integers(60, 96))])[1].tobytes()

    soft_label = soft_label_of(intensities, label, rng)
    known = label is None or label < len(EXPRESSIONS)
    valence, arousal = valence_arousal_of(intensities, rng).round(6).tolist() if known else (-2, -2)
    yaw, pitch, roll = (pose / 90).round(2).tolist()  # the release's unit is not documented; this fits best
    annotation = {
        "human-label": label,
        "soft-label": soft_label.tolist(),
        "subset": subset_of(soft_label, label),
        "meta-data": {
            "age": int(np.clip(person.age + rng.normal(0, 3), 1, 95)),
            "valence": valence,
            "arousal": arousal,
            "gender": _scores(GENDERS, person.gender, rng),
            "race": _scores(ETHNICITIES, person.ethnicity, rng),
            "pose": {"yaw": yaw, "pitch": pitch, "roll": roll},
            "landmark-68": np.rint(points).astype(int).ravel().tolist(),
            "landmark-29": np.rint(_landmarks_29(points)).astype(int).ravel().tolist(),
        },
    }
    return jpeg, annotation, truth


def _write(chunk: tuple) -> tuple[str, pa.RecordBatch, list]:
    """Writes some pairs of a split; returns the split, their truth and their rows of a table (none in most layouts)."""
    root, layout, seed, split, size, pairs = chunk
    write, folders = LAYOUTS[layout]
    truths, rows = [], []
    for index, image_id, label, identity_id in pairs:
        jpeg, annotation, truth = _pair(seed, split, index, label, identity_id, size)
        row = write(root / folders[split], seed, split, image_id, jpeg, annotation)
        truths.append([split, image_id, *truth])
        if row is not None:
            rows.append(row)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*truths, strict=True), _TRUTH, strict=True)]
    return split, pa.RecordBatch.from_arrays(columns, schema=_TRUTH), rows


def _whole(name: str, value, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return number


def _check_root(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is a file: name a folder that does not exist yet or is empty.")
    entries = set(os.listdir(root)) if root.exists() else set()
    if UNFINISHED in entries and len(entries) > 1:  # moved to their place already
        raise FileExistsError(f"{root} holds an interrupted run ({UNFINISHED}): delete the folder and start again.")
    if others := sorted(entries - {UNFINISHED}):
        raise FileExistsError(
            f"{root} already holds {others[0]!r}, and releases are not mixed: name a new or empty folder."
        )


def synthesize(
    root: str | os.PathLike,
    train: int = 2000,
    validation: int = 400,
    unannotated: int = 0,
    seed: int = 0,
    num_proc: int | None = None,
    image_size: int = 224,
    layout: str = "plus",
    validation_frequencies: str = "balanced",
) -> None:
    """Writes a licence-free AffectNet+ of drawn faces, or an older AffectNet of the same faces, with their truth.

    The same arguments write the same bytes, whatever `num_proc`. Everything is written below `root/.unfinished` and
    moved at the end. As long as that folder is there, whenever the run is killed, `root` does not load.

    Args:
        root: the release folder to make. Beside what its layout has, it holds `ground_truth.parquet`: per image
            `split`, `image_id`, the true `intensity_*` (0 to 1) of each expression, `AU*` (0 to 5, of the stronger
            side), `yaw`, `pitch`, `roll` (degrees) and `identity`; null for non-faces.
            A split of no images has no folder and no table.
        train: number of pairs in the training set, non-faces included, in the class frequencies of the real one.
        validation: the same for the validation set, in the class frequencies that `validation_frequencies` names.
        unannotated: number of pairs without a human label.
        seed: everything is drawn from it.
        num_proc: number of processes, by default one per available core.
        image_size: height and width of the images in pixels; in the layout "2017", of the face within its image.
        layout: the release whose files are imitated. All three hold the same faces under the same labels.
            "plus": AffectNet+, `human_annotated/` (`train_set/`, `validation_set/`) and `no_human_annotated/`.
            "2021": `train_set/` and `val_set/`, whose annotations are `N_{exp,val,aro,lnd}.npy`: the images of "plus"
            that have one of the 8 expressions, byte for byte and under the same N. The others are left out.
            "2017": `training.csv`, `validation.csv` and `automatically_annotated.csv` (the unannotated, with a
            machine's expression), whose images are larger than the face. `image_id` is the row number, from 0.
        validation_frequencies: "balanced" as AffectNet's own validation set, the same number of images in each
            category; "train", the frequencies of the training set.

    Raises:
        ValueError: a number is negative or absurd, a word is unknown, the layout has no place for what is asked, or
            `root` cannot be written to.
        FileExistsError: `root` is a file, or a folder that already holds something.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}.")
    if validation_frequencies not in VALIDATION_FREQUENCIES:
        known = " or ".join(map(repr, VALIDATION_FREQUENCIES))
        raise ValueError(f"validation_frequencies must be {known}, got {validation_frequencies!r}.")
    frequencies = {**SPLITS, "validation": SPLITS[VALIDATION_FREQUENCIES[validation_frequencies]]}
    sizes = {"train": _whole("train", train, 0), "validation": _whole("validation", validation, 0),
             "unannotated": _whole("unannotated", unannotated, 0)}  # fmt: skip
    if not any(sizes.values()):
        raise ValueError("Nothing to synthesize: train, validation and unannotated are all 0.")
    if unannotated and "unannotated" not in LAYOUTS[layout][1]:
        raise ValueError(
            f"The layout {layout!r} has no place for images without a human label: "
            f"set unannotated to 0 instead of {unannotated}, or name the layout 'plus' or '2017'."
        )
    seed, image_size = _whole("seed", seed, 0), _whole("image_size", image_size, 32)
    if image_size > 2048:
        raise ValueError(f"image_size must be at most 2048, got {image_size}.")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_proc = available if num_proc is None else _whole("num_proc", num_proc, 1)

    root = Path(root)
    _check_root(root)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        with moved_whole(root) as folder:
            _synthesize(folder, layout, sizes, frequencies, seed, num_proc, image_size)
    finally:
        cv2.setNumThreads(threads)


def _synthesize(
    folder: Path, layout: str, sizes: dict, frequencies: dict, seed: int, num_proc: int, image_size: int
) -> None:
    chunks, people = [], 0
    for place, split in enumerate(SPLITS):
        count = sizes[split]
        if not count:
            continue
        rng = np.random.default_rng((seed, _PLAN, place))
        labels = _labels(count, frequencies[split], rng)
        image_ids = np.cumsum(rng.integers(1, 5, count)).tolist()
        identities = (people + rng.integers(0, count, count)).tolist()  # 1.6 faces a person; none in two splits
        people += count
        if layout == "2017":
            image_ids = range(count)  # it numbers nothing but the rows of its tables
        pairs = list(zip(range(count), image_ids, labels, identities, strict=True))
        if layout == "2021":
            pairs = [pair for pair in pairs if pair[2] < len(EXPRESSIONS)]
        common = folder, layout, seed, split, image_size
        chunks += [(*common, pairs[k : k + _CHUNK]) for k in range(0, len(pairs), _CHUNK)]
    total = sum(len(chunk[-1]) for chunk in chunks)
    if not total:
        raise ValueError(f"Nothing to synthesize: no image that layout {layout!r} holds among so few; ask for more.")
    truth = []
    with (
        tqdm(total=total, desc="Drawing", unit="face") as progress,
        mapped(_write, chunks, num_proc, partial(cv2.setNumThreads, 1)) as written,
    ):
        for split, batch, rows in written:
            if rows:
                append_rows(folder, split, rows)
            truth.append(batch)
            progress.update(batch.num_rows)
    pq.write_table(pa.Table.from_batches(truth), folder / "ground_truth.parquet")
