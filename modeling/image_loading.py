"""Any image people have, as plain upright 8-bit RGB."""

import base64
import math
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import requests
from PIL import Image, ImageOps, UnidentifiedImageError

from .files import MOST_IMAGE_BYTES, RASTER_FORMATS, read_regular_file, shortened

_LEAST_BASE64 = 64  # letters


class ImageError(ValueError):
    """An image that cannot be had, said in one sentence with its name."""


def load_rgb(image, timeout: float | None = None) -> Image.Image:
    """A path, http(s) URL, data URI, text in base64, `PIL.Image.Image`, NumPy array, torch tensor or undecoded image of
    a dataset ({"bytes", "path"}) -> upright RGB image.

    Grey, palette, RGBA (alpha is dropped), CMYK, 16-bit (scaled by 1/257, not clipped) and EXIF-rotated images come out
    like their plain twin. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors may also have channels first;
    integers of 8 or 16 bits, or floats in [0, 1].

    Raises `FileNotFoundError`, `TypeError` or `ImageError` with the name of the image and what was expected.
    """
    if isinstance(image, np.ndarray) or _is_tensor(image):
        return _array_to_rgb(image)
    if isinstance(image, Image.Image):
        if image.format in ("EPS", "WMF"):  # not drawn before it is asked for its pixels
            raise ImageError(f"An image is made of pixels, not {image.format}: save it as PNG.")
        return _to_rgb(image)
    if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
        if isinstance(image["bytes"], bytes):
            return open_rgb(BytesIO(image["bytes"]), shortened(str(image["path"] or "an image of a dataset")))
        image = image["path"]
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        if name.startswith(("http://", "https://")):
            return open_rgb(_downloaded(name, timeout), shortened(name))
        if (content := _of_base64(name)) is not None:
            return open_rgb(BytesIO(content), shortened(name))
        if not os.path.exists(name):
            raise FileNotFoundError(f"No image file {shortened(name)!r} here (working directory {Path.cwd()}).")
        return open_rgb(name, name)
    raise TypeError(f"An image is a path, URL, PIL image, NumPy array or torch tensor, not {type(image).__name__}.")


def _downloaded(url: str, timeout: float | None) -> BytesIO:
    content = BytesIO()
    try:
        with requests.get(url, timeout=timeout, stream=True) as response:
            response.raise_for_status()
            for part in response.iter_content(1 << 16):
                content.write(part)
                if content.tell() > MOST_IMAGE_BYTES:
                    raise ImageError(f"{shortened(url)} has more than the {MOST_IMAGE_BYTES:,} bytes that are read.")
    except ImageError:
        raise
    except (requests.RequestException, ValueError) as error:  # the latter: a host of more than 63 letters
        reason = getattr(getattr(error, "response", None), "status_code", None) or type(error).__name__
        raise ImageError(f"{shortened(url)} cannot be fetched ({reason}): see whether a browser shows it.") from error
    content.seek(0)
    return content


def _of_base64(text: str) -> bytes | None:
    """What a data URI, or a long text of base64's letters, stands for; None for a path."""
    head, _, coded = text.partition(",") if text.startswith("data:") else ("", "", text)
    if not head and (len(text) < _LEAST_BASE64 or os.path.exists(text)):
        return None
    try:
        return base64.b64decode("".join(coded.split()), validate=True)
    except ValueError as error:
        if not head:
            return None
        raise ImageError(f"{shortened(text)} is no data URI of an image in base64.") from error


def open_rgb(source, name: str) -> Image.Image:
    """Decode an image file (path or binary file) to upright RGB; `name` is what an error calls it.

    Of a path only a regular file of at most `MOST_IMAGE_BYTES` is read, and of images only `RASTER_FORMATS`: PostScript
    (EPS), PDF, WMF and the like are no images here. Raises `ImageError`.
    """
    name = shortened(str(name), 120)
    try:
        if isinstance(source, (str, os.PathLike)):
            source = BytesIO(read_regular_file(source))
        with Image.open(source, formats=RASTER_FORMATS) as image:
            return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is refused as too large an image: {error}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({getattr(error, 'strerror', None) or error})"
        raise ImageError(f"{name} is not a readable image{reason}: replace it or leave it out.") from error


def undecoded(rows, column: str):
    """The rows of a Hugging Face dataset or stream with their images as they are stored, for `load_rgb` to open: the
    library itself opens them with every program that Pillow knows of.

    Rows stay as they are where somebody has set a transform, which expects images, or where a stream knows no columns.
    """
    feature = (rows.features or {}).get(column)
    if feature is None or type(feature).__name__ != "Image" or not feature.decode or feature.mode not in (None, "RGB"):
        return rows
    if getattr(rows, "format", {}).get("type") == "custom":
        return rows
    return rows.with_format(None).cast_column(column, type(feature)(decode=False))  # models do without `datasets`


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips these at 255
        values = np.asarray(image)
        if image.mode == "F":  # of 8 or 16 bits, or in [0, 1] already
            values = values / next((most for most in (1, 255) if values.max() <= most), 65535)
        return _array_to_rgb(values)
    return image.convert("RGB")


def _is_tensor(image) -> bool:
    return type(image).__module__ == "torch" and hasattr(image, "detach")  # without importing PyTorch


def _array_to_rgb(array) -> Image.Image:
    if _is_tensor(array):
        try:
            array = (array.float() if array.is_floating_point() else array).detach().cpu().numpy()
        except (RuntimeError, TypeError) as error:  # NotImplementedError, too, which is a RuntimeError
            raise ImageError("A torch tensor without plain numbers (meta, sparse, quantized) is no image.") from error
        if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
            array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ImageError(
            f"An image array has the shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not "
            f"{shortened(str(array.shape))}; several images go into a list."
        )
    if array.shape[0] * array.shape[1] > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):  # as of a file
        raise ImageError(f"An image array of the shape {array.shape} is refused as too large an image: scale it down.")
    if array.dtype.kind not in "uif":
        raise ImageError(
            "An image array holds integers of 8 or 16 bits or floats in [0, 1], not "
            f"{shortened(str(array.dtype))}: convert it."
        )
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if array.dtype.kind == "f" and low >= -0.1 and high <= 1.1:  # resampling may overshoot a little
            array = array.clip(0, 1) * 255
        elif array.dtype.kind in "ui" and low >= 0 and high <= 65535:
            # 16 bits by type, or by value where Pillow or torch, which know no such type, widen them
            array = array / 257 if array.dtype.str[1:] == "u2" or high > 255 else array
        else:
            raise ImageError(
                f"An image array holds integers of 8 or 16 bits or floats in [0, 1], not {array.dtype} "
                f"from {low} to {high}."
            )
        array = np.round(array).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")
