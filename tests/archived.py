"""Releases in archives, as they are downloaded."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path


def files_of(folder: Path) -> dict[str, bytes]:
    """{path: bytes}, in an order that keeps images and annotations apart, as archives do."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return stream.getvalue()


def streamed(files: dict[str, bytes]) -> bytes:
    """As a program writes it that cannot go back: sizes behind each member, and room for 64 bits before it."""
    stream = io.BytesIO()
    stream.seekable = lambda: False
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(content)
        file.comment = b"PK\5\6"
    return stream.getvalue()


def zipped64(files: dict[str, bytes]) -> bytes:
    """With 64 bits for each size and offset, as zips above 4 GB have."""
    content = zipped(files)
    entries, end = _table(content)
    table = b""
    for entry in entries:
        fields, name = list(entry[0]), entry[1]
        extra = struct.pack("<2H3Q", 1, 24, fields[9], fields[8], fields[16])
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        fields[11] = len(extra)
        table += struct.pack(_ENTRY, *fields) + name + extra
    place = end[6] + len(table)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), len(table), end[6])
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[: end[6]] + table + record + locator + last


def spanned(files: dict[str, bytes], size: int) -> list[bytes]:
    """The disks of a zip in spans, as `zip -s` writes them: offsets count from the begin of each disk."""
    content = zipped(files)
    entries, end = _table(content)
    whole = b"PK\7\10" + content[: end[6]]
    # A header is never split: a disk ends before one that does not fit.
    starts, headers = [0], [(fields[16] + 4, 30 + len(name)) for fields, name in entries]
    while len(whole) - starts[-1] > size:
        stop = starts[-1] + size
        starts.append(next((place for place, length in headers if place < stop < place + length), stop))

    def disk_of(place: int) -> int:
        return max(index for index, start in enumerate(starts) if start <= place)

    table = b""
    for fields, name in entries:
        place = fields[16] + 4
        disk = disk_of(place)
        table += struct.pack(_ENTRY, *fields[:13], disk, *fields[14:16], place - starts[disk]) + name
    last = len(starts) - 1
    record = struct.pack(
        "<4s4H2LH", b"PK\5\6", last, last, len(entries), len(entries), len(table), len(whole) - starts[last], 0
    )
    whole += table + record
    return [whole[start:stop] for start, stop in zip(starts, [*starts[1:], len(whole)], strict=True)]


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def cut(content: bytes, size: int) -> list[bytes]:
    """As `split -b`."""
    return [content[start : start + size] for start in range(0, len(content), size)]


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def under(top: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {os.path.join(top, name): content for name, content in files.items()}


_ENTRY = "<4s6H3L5H2L"


def _table(content: bytes) -> tuple[list[tuple[tuple, bytes]], tuple]:
    end = struct.unpack_from("<4s4H2LH", content, content.rindex(b"PK\5\6"))
    entries, place = [], end[6]
    while content[place : place + 4] == b"PK\1\2":
        fields = struct.unpack_from(_ENTRY, content, place)
        entries.append((fields, content[place + 46 : place + 46 + fields[10]]))
        place += 46 + fields[10] + fields[11] + fields[12]
    return entries, end


def numbered(name, parts, first=1, width=3):
    return {f"{name}{index:0{width}}": part for index, part in enumerate(parts, first)}


def pieces(files, size=9000):
    return numbered("a.zip.", cut(zipped(files), size))


FORMS = {
    "zip": lambda files: {"AffectNet+.zip": zipped(files)},
    "zip, stored": lambda files: {"AffectNet+.zip": zipped(files, zipfile.ZIP_STORED)},
    "zip, wrapped": lambda files: {"download.ZIP": zipped(under("AffectNet+", files))},
    "zip with a Mac's files": lambda files: {
        "a.zip": zipped({**files, **under("__MACOSX", {f"{name[:-5]}._{name[-5:]}": b"x" for name in files})})
    },
    "zip64": lambda files: {"AffectNet+.zip": zipped64(files)},
    "zip, streamed": lambda files: {"AffectNet+.zip": streamed(files) + b"\r\n"},
    "zip after a stub": lambda files: {"AffectNet+.zip": b"#!/bin/sh\n" * 9 + zipped(files)},
    "spans": lambda files: {
        **dict(zip((f"A.z{i:02}" for i in range(1, 99)), parts := spanned(files, 9000), strict=False)),
        "A.zip": parts[-1], f"A.z{len(parts):02}": b"",
    },
    "split": lambda files: numbered("AffectNet+.zip.", cut(zipped(files), 9000)),
    "split, letters": lambda files: {
        f"AffectNet+.zip.a{chr(97 + i)}": part for i, part in enumerate(cut(zipped(files), 9000))
    },
    "split, called parts": lambda files: {
        f"AffectNet+_part{i}.zip": part for i, part in enumerate(cut(zipped64(files), 9000), 1)
    },
    "zips of their own": lambda files: {
        f"AffectNet+_part{i}.zip": zipped(under(f"AffectNet+_part{i}", dict(list(files.items())[i - 1 :: 3])))
        for i in (1, 2, 3)
    },
    "tar": lambda files: {"AffectNet+.tar": tarred(under(".", files))},
    "tar.gz": lambda files: {"AffectNet+.tar.gz": tarred(under("AffectNet+", files), "w:gz")},
    "tar.gz, split": lambda files: numbered("AffectNet+.tgz.", cut(tarred(files, "w:gz"), 9000), 0, 2),
}  # fmt: skip
