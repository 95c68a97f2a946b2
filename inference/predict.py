"""`affectnet-plus predict`: pictures, folders and videos in, a table with a row for each face out."""

import contextlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from affectnet_plus.modeling import load_rgb
from affectnet_plus.releases.files import RASTER_ENDINGS, RASTER_FORMATS, check_utf8
from affectnet_plus.releases.writing import is_no_room, written_whole

from .annotate import annotated, video_writer
from .loading import pipeline_of
from .table import FORMATS, Journal, row_of, rows_in, write_table
from .timeline import write_timeline
from .video import check_settings, predict_video, read_frames

IMAGES = set(RASTER_ENDINGS)
VIDEOS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob",
    ".webm", ".wmv",
}  # fmt: skip


def predict(
    files: list[str],
    output: str,
    model: str | None = None,
    device: str | None = None,
    faces: str = "detect",
    face_detector: str = "default",
    every: int = 5,
    smoothing: float = 0.0,
    batch_size: int = 16,
    annotate: str | None = None,
    plot: str | None = None,
) -> int:
    """Write a row for each face in pictures and videos.

    Args:
        files: pictures, videos, and folders of them.
        output: FILE.jsonl, .csv or .parquet. Until it is whole, rows lie in a file beside it whose name begins with a
            dot; the same command goes on from there, file by file.
        model: folder or Hub id of one of our models, or a file of `export-onnx`; None for the bundled one.
        device: "cpu", "cuda:0" ...; None for the best there is.
        faces: "detect", or "crop" where pictures are face crops; faces in videos are always found.
        face_detector: "default", or MODULE:NAME of a callable (see `SoftFerPipeline`).
        every: frames from one detection to the next in videos.
        smoothing: of scores over the frames of videos.
        batch_size: faces that the network sees at a time.
        annotate: a folder for the pictures and videos with boxes and bars, by the names of the files with .jpg or .mp4
            after them; None for none.
        plot: FILE.html for the timelines of videos, with a FILE.png beside it; None for none.

    Returns:
        0, or 1 where some file could not be read: it is named, and the others are done.

    Raises:
        ValueError: nothing to look at, or an argument that cannot be; before any work.
    """
    target = Path(output)
    if target.suffix not in FORMATS:
        raise ValueError(f"--output {output} ends in none of {', '.join(FORMATS)}, which say what to write.")
    if target.exists():
        raise ValueError(f"--output {output} is there already: delete it, or name another file.")
    if plot and Path(plot).suffix != ".html":
        raise ValueError(f"--plot {plot} does not end in .html; a .png is written beside it.")
    check_settings(every, smoothing)
    sources = sources_in(files)
    if plot and not any(map(_is_video, sources)):
        raise ValueError("--plot draws timelines of videos, and there is no video among these files.")
    for module, needed, extra in (("av", any(map(_is_video, sources)), "video"), ("matplotlib", plot, "train")):
        if needed and importlib.util.find_spec(module) is None:
            raise ImportError(f'This needs {module}, which is not installed: pip install "affectnet-plus[{extra}]".')
    fer = pipeline_of(model, device, faces, face_detector)
    settings: dict[str, Any] = {"model": model, "faces": faces, "face_detector": face_detector}
    settings |= {"every": every, "smoothing": smoothing, "annotate": annotate}
    target.parent.mkdir(parents=True, exist_ok=True)
    journal = target.with_name(f".{target.name}.unfinished")
    with Journal(journal, settings) as rows:
        for source, name in tqdm(sources.items(), unit="file", disable=None):
            ending = "mp4" if _is_video(source) else "jpg"
            drawn = Path(annotate) / f"{name}.{ending}" if annotate else None
            if str(source) in rows.done:
                continue
            found, note = 0, {}
            broken: list[int] = []
            try:
                if _is_video(source):
                    of_file = rows_of_video(source, fer, every, smoothing, batch_size, broken, drawn)
                else:
                    of_file = iter([_rows_of_picture(source, fer, batch_size, drawn)])
                for row in itertools.chain.from_iterable(of_file):
                    rows.write(row)
                    found += 1
            except (ValueError, OSError) as error:
                if is_no_room(error):
                    raise
                rows.take_back()
                found, note = 0, {"unreadable": str(error)}
                tqdm.write(f"affectnet-plus: {error}", file=sys.stderr)
            rows.finish(source, {"faces": found, "broken": broken, **note})
        write_table(journal, target, fer.model.config.expressions)
        if plot:
            write_timeline(rows_in(journal), Path(plot), fer.model.config.expressions)
    journal.unlink(missing_ok=True)
    return _say(rows.done, target)


def _say(notes: dict[str, dict], target: Path) -> int:
    """What was found and what was not; 1 where a file could not be read."""
    unreadable = [source for source, note in notes.items() if "unreadable" in note]
    without = [source for source, note in notes.items() if not note["faces"] and source not in unreadable]
    counts = sum(note["faces"] for note in notes.values()), len(notes)
    faces, files = (f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in zip(counts, ("face", "file"), strict=True))
    print(f"{faces} in {files}: {target}")
    for what, names in (("No face in", without), ("Not readable", unreadable)):
        if names:
            more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
            print(f"{what} {len(names):,}: {', '.join(names[:10])}{more}")
    for source, note in notes.items():
        if numbers := note["broken"]:
            more = " ..." if len(numbers) > 10 else ""
            print(f"{source}: {len(numbers):,} broken frames left out: {', '.join(map(str, numbers[:10]))}{more}")
    return 1 if unreadable else 0


def sources_in(files: list[str]) -> dict[Path, Path]:
    """The pictures and videos that are named or lie in folders that are, each once, in the order of their names within
    a folder; and what to call what is drawn of each, no two alike. `ValueError` for a file that is neither, for folders
    without any and for names that are no UTF-8."""
    found: dict[Path, Path] = {}
    for name in files:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in IMAGES | VIDEOS and p.is_file()]
            inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not inside:
                raise ValueError(f"There is no picture and no video in {name}.")
            found |= {p: p.relative_to(path) for p in inside if p not in found}
        elif not path.exists():
            raise FileNotFoundError(f"There is no file {name!r} (working directory {Path.cwd()}).")
        elif path.suffix.lower() not in IMAGES | VIDEOS:
            raise ValueError(
                f"{name} is no picture ({', '.join(RASTER_FORMATS)}) and no video, as far as its name says."
            )
        else:
            found.setdefault(path, Path(path.name))
    taken: set[Path] = set()
    for path, drawn in found.items():
        check_utf8(str(path))
        names = itertools.chain([drawn], (drawn.with_name(f"{number}-{drawn.name}") for number in itertools.count(2)))
        found[path] = next(name for name in names if name not in taken)
        taken.add(found[path])
    return found


def _is_video(source: Path) -> bool:
    return source.suffix.lower() in VIDEOS


def _rows_of_picture(source: Path, fer, batch_size: int, drawn: Path | None) -> list[dict]:
    image = load_rgb(source)
    answers = fer(image, batch_size=batch_size)
    answers = answers if isinstance(answers, list) else [answers]
    if drawn:
        drawn.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(drawn) as beside:
            annotated(image, answers).save(beside, quality=92)
    return [row_of(source, None, None, answer | {"face": number}) for number, answer in enumerate(answers)]


def rows_of_video(
    source: Path, fer, every: int, smoothing: float, batch_size: int, broken: list[int], drawn: Path | None
) -> Iterator[list[dict]]:
    """The rows of each frame that can be read; `drawn` is a file for the video with boxes and bars, or None."""
    frames = predict_video(source, fer, every, smoothing, batch_size, broken)
    with contextlib.ExitStack() as stack:
        if drawn:  # the video is read once more: kept, its pictures would fill the memory
            pictures = read_frames(source)
            write = stack.enter_context(video_writer(drawn, source))
        for frame in frames:
            if drawn:
                write(annotated(next(pictures).image, frame["faces"]))
            yield [row_of(source, frame["frame"], frame["time"], answer) for answer in frame["faces"]]
