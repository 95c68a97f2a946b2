"""Files that are no images and no annotations, though they are called so."""

import os
import socket
from pathlib import Path

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n"
KINDS = ("pipe", "endless device", "socket", "far too large")


def put(kind: str, path: Path) -> None:
    """Something of this kind in place of `path`."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's whole path may have 108 characters only
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)  # of holes, which take no room


def ghostscript(folder: Path, monkeypatch) -> Path:
    """The file that a Ghostscript first on the PATH leaves when it is started."""
    from PIL import EpsImagePlugin

    started = folder / "started"
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\n: > '{started}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # where Pillow keeps what it has found
    return started
