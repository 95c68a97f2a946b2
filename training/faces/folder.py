"""Faces that lie in a folder, without labels."""

import warnings
from pathlib import Path

import datasets
import numpy as np

from affectnet_plus.releases.expressions import listed
from affectnet_plus.releases.files import RASTER_ENDINGS, check_utf8
from affectnet_plus.training.faces.split import Split, without_broken_images


def images_in(folder: str, on_error: str) -> Split:
    """The image files in a folder and those inside it, but for names that begin with a dot; `ids` are paths below it,
    without their endings."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"--image_dir {folder} is no folder.")
    # What is neither a file nor a folder is told of as a broken image.
    entries = [path for path in sorted(root.rglob("*")) if path.is_symlink() or not path.is_dir()]
    entries = [path for path in entries if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    paths = [path for path in entries if path.suffix.lower() in RASTER_ENDINGS and not path.is_dir()]
    if left_out := [path.relative_to(root).as_posix() for path in sorted(set(entries) - set(paths))]:
        warnings.warn(
            f"{len(left_out)} files or links to folders in --image_dir {folder} are left out, as they are no images of "
            f"{', '.join(RASTER_ENDINGS)}: {listed(left_out)}. Convert them, or give the folder that is linked to.",
            stacklevel=2,
        )
    if not paths:
        raise ValueError(f"--image_dir {folder} holds no image ({', '.join(RASTER_ENDINGS)}).")
    for path in paths:
        check_utf8(str(path), "--image_dir")
    ids = np.array([path.relative_to(root).with_suffix("").as_posix() for path in paths])
    if len(set(ids)) < len(ids):
        ids = np.array([path.relative_to(root).as_posix() for path in paths])
    stored = [{"path": str(path), "bytes": None} for path in paths]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": stored}, features=features)
    split = Split("images", images, np.full(len(paths), -1), None, ids, ids, "path of the file")
    return without_broken_images(split) if on_error == "skip" else split
