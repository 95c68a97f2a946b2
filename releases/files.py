"""What is read from a disk: regular files of bounded size, and images of raster formats."""

import errno
import os
import stat

import PIL.Image

PIL.Image.init()
# Every `Image.open` of the project takes these and no others: Pillow by itself also takes PostScript (EPS), for which
# it starts Ghostscript, and formats that it recognises by guessing. AVIF is not in every Pillow.
RASTER_FORMATS = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in PIL.Image.OPEN
)
RASTER_ENDINGS = (  # looked for in folders
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm",
)  # fmt: skip

MOST_IMAGE_BYTES = 1 << 28
MOST_ANNOTATION_BYTES = 1 << 24

# Without waiting for the other end of a pipe. Windows has no such flag, but needs to be told of bytes.
READ_BYTES = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_regular_file(path: str | os.PathLike, most_bytes: int = MOST_IMAGE_BYTES) -> bytes:
    """All of a file, or of the file that a link leads to, in one pass.

    Raises `OSError`, the reason in `strerror`, also where it is no regular file (a pipe, a device, a socket, a folder)
    or has more than `most_bytes`.
    """
    # Not `open`, whose file objects take a tenth of all the time of loading.
    descriptor = os.open(path, READ_BYTES)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
        if status.st_size > most_bytes:
            reason = f"{status.st_size:,} bytes, more than the {most_bytes:,} that are read"
            raise OSError(errno.EFBIG, reason, os.fspath(path))
        content = os.read(descriptor, status.st_size)
        if len(content) < status.st_size:  # a disk on a network may give less at a time
            blocks, missing = [content], status.st_size - len(content)
            while missing and (block := os.read(descriptor, missing)):
                blocks.append(block)
                missing -= len(block)
            content = b"".join(blocks)
        return content
    finally:
        os.close(descriptor)


def size_of(num_bytes: float) -> str:
    """A number of bytes as people say it: "8.1 GB", "3 MB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{max(num_bytes / 1e6, 1):.0f} MB"


def shortened(text: str, most: int = 80) -> str:
    """Text for a message: on one line, and with its middle left out where it is longer than `most`."""
    text = text if len(text) <= most else f"{text[: most - 20]}...{text[-17:]}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def check_utf8(path: str, flag: str = "") -> None:
    """Raises `ValueError` where the name of a file or folder is no UTF-8, which Arrow and JSON cannot keep."""
    try:
        path.encode()
    except UnicodeEncodeError:
        name = f"{flag} {shortened(path, 150)}".strip()
        raise ValueError(f"{name} has bytes in its name that are no UTF-8: rename it, or name another.") from None


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how what a spreadsheet takes for a formula begins


def csv_cell(text: str) -> str:
    """What stands for a text in a CSV file: with a quote before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def text_of_csv_cell(cell: str) -> str:
    """The text that `csv_cell` has written."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
