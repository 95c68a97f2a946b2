"""Which release lies where.

A release is read by the module of its layout, which has

- `TITLE`, and `NAME` for records; `ABOUT`, one of `about.py`'s; `SPLITS`: {split: None, or the rows published, of which
  with one of the eight expressions (None where that is not known)};
- `MARKS`: the names of which a folder holds one where it is such a release ("/" at the end: a folder),
  the ones to be told of first;
- `folders(release, config_name)`: {split: the folder that it lies in};
- `shards(release, config)`: {split: (shards in the order of the rows, what is damaged already by the look of it)};
- `rows(shard, config)`: the rows of a shard, and a `Damage` for each that is broken;
- `times(release, config)`: changes whenever a table made of these files would.
"""

import glob
import os
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

from . import affectnet_2017, affectnet_2021, ferplus, plus, tree
from .archives import archives_in
from .errors import ReleaseError
from .expressions import SUBSETS, listed
from .files import check_utf8
from .volumes import is_archive

DATA_DIR_VARIABLE = "AFFECTNET_PLUS_DIR"
# A folder that begins with a dot is never a release. In this one lies what an interrupted run has written, beside what
# it has already moved to its place: as long as it is there, the folder around it is not whole.
UNFINISHED = ".unfinished"
# The configurations and what reads them; the first of each is what `check` and `export` begin with.
LAYOUTS = {
    **dict.fromkeys(("human_annotated", *SUBSETS, "human_annotated_all", "no_human_annotated"), plus),
    "affectnet_2021": affectnet_2021,
    "affectnet_2017": affectnet_2017,
    "ferplus": ferplus,
}


def find_release(data_dir: str | os.PathLike | None = None, config_name: str = "human_annotated") -> str:
    """The absolute path of the release in `data_dir`, else in $AFFECTNET_PLUS_DIR: that folder or one right inside it,
    or that archive, or what the archives in that folder hold.

    Raises `ReleaseError` where there is none of the layout that the configuration reads, or more than one, or only what
    an interrupted run has left of one.
    """
    layout = LAYOUTS[config_name]
    folder = _named_folder(data_dir)
    views = _views(folder)
    for look in views:
        if look.is_release(folder, layout):
            return folder
        # The folder human_annotated holds train_set, as the release of 2021 does.
        inside = [] if layout is not plus and look.is_release(folder, plus) else look.inside(folder)
        found = [place for place in inside if look.is_release(place, layout)]
        if len(found) == 1:
            _refuse_unfinished(found[0])
            return found[0]
        if found:
            names = listed(map(os.path.basename, found))
            raise ReleaseError(f"{folder} holds several releases, {names}: name one of them as data_dir.")
    for look in views:
        for name, other in LAYOUTS.items():
            if any(look.is_release(place, other) for place in (folder, *look.inside(folder))):
                raise ReleaseError(
                    f"{folder} is {other.TITLE}, not {layout.TITLE}: "
                    f'load_dataset("affectnet_plus", "{name}", ...) reads it.'
                )
        _refuse_unfinished(*look.inside(folder))
    raise tree.lacking(
        folder,
        f"{folder} is no release of {layout.TITLE}: neither it nor a folder right inside it holds "
        f"{_marks(layout)}. Found there: {_shown(folder)}.",
    )


def recognise(data_dir: str | os.PathLike | None = None) -> tuple[str, str]:
    """The path of the release in `data_dir`, of whatever layout, and the name of the configuration that reads it.

    Raises `ReleaseError` where there is none, or more than one, or only what an interrupted run has left of one.
    """
    folder = _named_folder(data_dir)
    views = _views(folder)
    for look, places in ((view, places) for view in views for places in ([folder], view.inside(folder))):
        found = [
            (place, next(name for name, own in LAYOUTS.items() if own is layout))
            for place in places
            for layout in dict.fromkeys(LAYOUTS.values())
            if look.is_release(place, layout)
        ]
        if len(found) == 1:
            _refuse_unfinished(found[0][0])
            return found[0]
        if found:
            each = listed(f"{os.path.basename(place)} ({LAYOUTS[name].TITLE})" for place, name in found)
            cure = "unpack each into a folder of its own" if places == [folder] else "name one of them as data_dir"
            raise ReleaseError(f"{folder} holds several releases, {each}: {cure}.")
    for look in views:
        _refuse_unfinished(*look.inside(folder))
    known = "; ".join(f"{layout.TITLE}: {_marks(layout)}" for layout in dict.fromkeys(LAYOUTS.values()))
    raise tree.lacking(
        folder,
        f"{folder} is no release known here. Looked for, in it and in the folders right inside it: {known}. "
        f"Found there: {_shown(folder)}.",
    )


def is_export(folder: str) -> bool:
    """Whether `affectnet-plus export` has written this folder."""
    return os.path.isfile(os.path.join(folder, "README.md")) and bool(
        glob.glob(os.path.join(glob.escape(folder), "*", "*.parquet"))
    )


def _named_folder(data_dir) -> str:
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named:
        raise ReleaseError(
            'No release was named: pass data_dir="/path/to/AffectNet+" to load_dataset, '
            f"or set the environment variable {DATA_DIR_VARIABLE}."
        )
    folder = os.path.abspath(os.path.expanduser(named))
    if not os.path.exists(folder):
        folder = os.path.abspath(os.path.expandvars(os.path.expanduser(named)))
    tree.forget()
    try:
        check_utf8(folder, "data_dir")
    except ValueError as error:
        raise ReleaseError(str(error)) from None
    if not (os.path.isdir(folder) or (os.path.isfile(folder) and is_archive(os.path.basename(folder)))):
        found = f"is {'a file, ' * os.path.isfile(folder)}neither a folder nor a .zip or .tar"
        found = found if os.path.exists(folder) else "does not exist"
        raise ReleaseError(f"{folder} {found} (named by {'data_dir' if data_dir else '$' + DATA_DIR_VARIABLE}).")
    if os.path.basename(folder).startswith("."):
        raise ReleaseError(
            f"{folder} is no release, as its name begins with a dot: name another folder, or rename it if it is one."
        )
    _refuse_unfinished(folder)
    if f"{os.path.basename(folder)}/" in plus.MARKS and not _ON_DISK.is_release(folder, plus):
        raise ReleaseError(f"{folder} is a part of {plus.TITLE}: name the folder around it, {os.path.dirname(folder)}.")
    return folder


class _View(NamedTuple):
    """A way to look for releases: on the disk alone, or also into the archives that lie there."""

    is_folder: Callable[[str], bool]
    is_file: Callable[[str], bool]
    entries: Callable[[str], Iterable[tuple[str, bool]]]

    def is_release(self, folder: str, layout: ModuleType) -> bool:
        looks = ((self.is_folder if mark.endswith("/") else self.is_file, mark) for mark in layout.MARKS)
        return any(look(os.path.join(folder, mark)) for look, mark in looks)

    def inside(self, folder: str) -> list[str]:
        return sorted(
            os.path.join(folder, name) for name, is_dir in self.entries(folder) if is_dir and not name.startswith(".")
        )


def _entries_on_disk(folder: str) -> list[tuple[str, bool]]:
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]


_ON_DISK = _View(os.path.isdir, os.path.isfile, _entries_on_disk)
_IN_ARCHIVES = _View(tree.is_folder, tree.is_file, tree.entries)


def _views(folder: str) -> list[_View]:
    """What is unpacked comes first: the archives may still lie beside it, perhaps not whole."""
    return [_ON_DISK, _IN_ARCHIVES] if archives_in(folder) else [_ON_DISK]


def _refuse_unfinished(*folders: str) -> None:
    for folder in folders:
        if os.path.lexists(os.path.join(folder, UNFINISHED)):
            raise ReleaseError(
                f"{folder} is not whole: it holds {UNFINISHED}, which an interrupted `affectnet-plus synthesize` or "
                f"`export` or `label.py --write_release` has left. Delete {folder} and run that command again."
            )


def _marks(layout: ModuleType) -> str:
    return " or ".join(layout.MARKS[:5])


def _shown(folder: str) -> str:
    return listed(name + "/" * is_dir for name, is_dir in sorted(_views(folder)[-1].entries(folder))) or "nothing"
