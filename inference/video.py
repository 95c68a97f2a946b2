"""Faces in video, frame by frame, in constant memory."""

import itertools
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from affectnet_plus.modeling import crop_face, find_faces

_PARTS_AHEAD = 2
_SMOOTH = Image.Resampling.BILINEAR
_LOOKED_AT = 24  # pixels: what the smallest known face is shrunk to for most detections
_WHOLE_EVERY = 5  # detections: the frame as it is, for smaller faces that have come
SAME_FACE = 0.3  # least overlap (intersection over union) of a face's boxes in two detections


class Frame(NamedTuple):
    """A picture of a video."""

    number: int  # from 0, broken ones included
    time: float | None  # seconds from the first one, by the file's own clock
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright


def predict_video(
    source: str | os.PathLike | int | Iterable[np.ndarray],
    fer,
    every: int = 5,
    smoothing: float = 0.0,
    batch_size: int = 32,
    broken: list[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """The faces of each frame of a video, in constant memory however long it is.

        for frame in predict_video("clip.mp4", pipeline("soft-fer")):
            frame["time"], [(face["face"], face["label"]) for face in frame["faces"]]

    Faces are detected in every n-th frame; in those between, their boxes move evenly from one detection to the next.
    Four of five detections look at the frame shrunk, until the smallest known face has 24 pixels; each fifth, and where
    a face is lost, at the frame as it is.
    `face` numbers faces: it stays the same as long as the box of one detection overlaps that of the next (IoU of at
    least 0.3). Nobody is recognised: who leaves and comes back, or jumps, has another number.

    Args:
        source: a video file, the number of a camera, or upright RGB frames (H, W, 3) of bytes.
        fer: `pipeline("soft-fer")`, with its detector and thresholds. The detector is called in a thread of its own.
        every: frames from one detection to the next; 1 detects in each.
        smoothing: of a face's scores over its frames, from 0 (none) to below 1: log-odds are `smoothing` times those of
            the frame before and the rest of this one's. Valence and arousal likewise.
        batch_size: faces that the network sees at a time.
        broken: a list that takes the numbers of frames that could not be decoded, which are left out.

    Yields:
        Per frame `frame` (number), `time` (seconds; None of plain frames) and `faces`: the pipeline's answers, each
        with `face`.

    Raises:
        ValueError: no video, no picture in it, or not one frame that can be read; or an argument that cannot be.
    """
    check_settings(every, smoothing)
    tracked = _tracked(read_frames(source, broken), fer.face_detector, every)
    return _answered(_ahead(_parts(tracked, fer, batch_size), _PARTS_AHEAD), fer, smoothing, batch_size)


def check_settings(every: int, smoothing: float) -> None:
    """`ValueError` where `predict_video` could not be asked for this."""
    if every < 1:
        raise ValueError(f"every is a number of frames from 1, not {every}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is from 0 (none) to below 1, not {smoothing}.")


def frames_in(file: str | os.PathLike) -> int:
    """How many frames a video that was read has, as its header says; 0 where that says nothing."""
    import av

    with av.open(os.fspath(file)) as container:
        stream = container.streams.video[0]
        seconds = (container.duration or 0) / 1_000_000
        return stream.frames or round(seconds * (stream.average_rate or 0))


def read_frames(source, broken: list[int] | None = None) -> Iterator[Frame]:
    """Frames of a video file, a camera or an iterable; see `predict_video`. What is no video is said before the first
    is read."""
    broken = [] if broken is None else broken
    if isinstance(source, (str, os.PathLike)):
        frames = _of_file(os.fspath(source), broken)
    elif isinstance(source, int):
        frames = _of_camera(source)
    else:
        frames = (Frame(number, None, np.asarray(image)) for number, image in enumerate(source))
    first = next(frames, None)
    if first is None:
        name = f"{source}" if isinstance(source, (str, os.PathLike, int)) else "The video"
        raise ValueError(f"{name} has no frame that can be read: is the file whole?")
    return itertools.chain([first], frames)


def _of_file(name: str, broken: list[int]) -> Iterator[Frame]:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'Reading video needs av, which is not installed: pip install "affectnet-plus[video]".'
        ) from error
    if not Path(name).is_file():
        raise FileNotFoundError(f"No video file {name!r} here (working directory {Path.cwd()}).")
    try:
        container = av.open(name)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{name} is not a readable video ({error}): convert it, or leave it out.") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{name} has sound, but no picture: leave it out.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        number, start = 0, None
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                broken.append(number)
                number += 1
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    broken.append(number)
                else:
                    start = frame.time if start is None else start
                    seconds = None if frame.time is None else round(frame.time - (start or 0.0), 6)
                    yield Frame(number, seconds, np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
                number += 1


def _of_camera(index: int) -> Iterator[Frame]:
    import cv2

    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise ValueError(f"There is no camera {index}, or another program has it: close that, or name another.")
        for number in itertools.count():
            there, image = camera.read()
            if not there:
                return
            yield Frame(number, camera.get(cv2.CAP_PROP_POS_MSEC) / 1000, image[:, :, ::-1])
    finally:
        camera.release()


def _tracked(frames: Iterator[Frame], detector, every: int) -> Iterator[tuple[Frame, list[dict]]]:
    """Each frame with its faces: `box`, what the detector said of it last, and `face`, its number."""
    numbers = itertools.count()
    before: list[dict] = []
    waiting: list[Frame] = []  # since the last detection
    detections = itertools.count()
    for frame in frames:
        if waiting and len(waiting) < every:
            waiting.append(frame)
            continue
        image, whole = Image.fromarray(frame.image), next(detections) % _WHOLE_EVERY == 0
        after = [] if whole else _found_again(detector, image, before)
        if not after:
            after = find_faces(detector, image)
        _number_alike(before, after, numbers)
        yield from _moved(waiting, before, after)
        before, waiting = after, [frame]
    yield from _moved(waiting, before, [])


def _found_again(detector, image: Image.Image, known: list[dict]) -> list[dict]:
    """Faces of the frame when shrunk; none unless they are as many as were known."""
    scale = max((_LOOKED_AT / min(face["box"]["width"], face["box"]["height"]) for face in known), default=1.0)
    if scale >= 1:
        return []
    faces = find_faces(detector, image.resize([max(1, round(side * scale)) for side in image.size], _SMOOTH))
    for face in faces:
        face["box"] = {key: round(value / scale, 1) for key, value in face["box"].items()}
        if face.get("landmarks"):
            face["landmarks"] = (np.array(face["landmarks"]) / scale).round(1).tolist()
    return faces if len(faces) >= len(known) else []


def _moved(frames: list[Frame], before: list[dict], after: list[dict]) -> Iterator[tuple[Frame, list[dict]]]:
    """The frames from one detection to the next, faces moving evenly; who is not found again stays."""
    later = {face["face"]: face for face in after}
    for step, frame in enumerate(frames):
        share, faces = step / len(frames), []
        for face in before:
            box, landmarks = dict(face["box"]), face.get("landmarks")
            if share and face["face"] in later:
                then = later[face["face"]]
                box = {key: round((1 - share) * box[key] + share * then["box"][key], 1) for key in box}
                if landmarks and then.get("landmarks"):
                    both = np.array([landmarks, then["landmarks"]])
                    landmarks = (both[0] * (1 - share) + both[1] * share).round(1).tolist()
            faces.append(face | {"box": box} | ({"landmarks": landmarks} if landmarks else {}))
        yield frame, faces


def _number_alike(before: list[dict], after: list[dict], numbers: Iterator[int]) -> None:
    """Give each face of a detection the number of that of the last one which it overlaps most, or a new one."""
    overlaps = sorted(
        ((_overlap(old["box"], new["box"]), i, j) for i, old in enumerate(before) for j, new in enumerate(after)),
        key=lambda pair: -pair[0],
    )
    taken: set[int] = set()
    for overlap, i, j in overlaps:
        if overlap >= SAME_FACE and i not in taken and "face" not in after[j]:
            after[j]["face"] = before[i]["face"]
            taken.add(i)
    for face in after:
        if "face" not in face:
            face["face"] = next(numbers)


def _overlap(box: dict, other: dict) -> float:
    width = min(box["x"] + box["width"], other["x"] + other["width"]) - max(box["x"], other["x"])
    height = min(box["y"] + box["height"], other["y"] + other["height"]) - max(box["y"], other["y"])
    inside = max(0.0, width) * max(0.0, height)
    return inside / (box["width"] * box["height"] + other["width"] * other["height"] - inside)


class _Part(NamedTuple):
    """Some frames in a row, and what the network is to see of them."""

    frames: list[tuple[int, float | None, list[dict]]]
    prepared: list[tuple[np.ndarray, int]]


def _parts(tracked: Iterator, fer, batch_size: int) -> Iterator[_Part]:
    """Of at least so many faces, or of many frames where few faces are."""
    part = _Part([], [])
    for frame, faces in tracked:
        image = Image.fromarray(frame.image)
        part.prepared.extend(fer.prepare([crop_face(image, face, **fer.framing) for face in faces]))
        part.frames.append((frame.number, frame.time, faces))
        if len(part.prepared) >= batch_size or len(part.frames) >= 8 * batch_size:
            yield part
            part = _Part([], [])
    if part.frames:
        yield part


def _answered(parts: Iterator[_Part], fer, smoothing: float, batch_size: int) -> Iterator[dict[str, Any]]:
    """Frames with the answers to their faces."""
    before: dict[int, dict[str, np.ndarray]] = {}  # of the faces in the last frame
    for part in parts:
        outputs = fer.outputs_of([pixel_values for pixel_values, _ in part.prepared], batch_size)
        sides = iter([side for _, side in part.prepared])
        for number, time, faces in part.frames:
            answers, now = [], {}
            for face in faces:
                output = next(outputs)
                if smoothing and (past := before.get(face["face"])):
                    output = {key: smoothing * past[key] + (1 - smoothing) * value for key, value in output.items()}
                now[face["face"]] = output
                answers.append(fer.answer(output, next(sides)) | face)
            before = now
            yield {"frame": number, "time": time, "faces": answers}


def _ahead(items: Iterator[_Part], number: int) -> Iterator[_Part]:
    """The same, made by a thread that is so many ahead of whoever takes them: decoding and detection of the next part
    go on while the network sees the last."""
    made: queue.Queue = queue.Queue(maxsize=number)
    unwanted = threading.Event()

    def make() -> None:
        try:
            for item in items:
                _put(made, item, unwanted)
                if unwanted.is_set():
                    return
            _put(made, None, unwanted)
        except BaseException as error:  # goes on where it is noticed
            _put(made, error, unwanted)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        unwanted.set()
        thread.join()


def _put(made: queue.Queue, item, unwanted: threading.Event) -> None:
    while not unwanted.is_set():
        try:
            return made.put(item, timeout=0.1)
        except queue.Full:
            pass
