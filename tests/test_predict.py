"""Video frame by frame, and `affectnet-plus predict`: files in, a row for each face out."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image
from transformers import pipeline

from affectnet_plus.inference import predict_video
from affectnet_plus.inference.annotate import annotated
from affectnet_plus.inference.video import read_frames
from affectnet_plus.modeling import BUNDLED_MODEL
from affectnet_plus_cli import main

FRAMES, SIZE = 24, (320, 240)


def ffmpeg(*words) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, words)]
    subprocess.run(command, check=True)


def write_video(file: Path, pictures: list[np.ndarray], rate: int = 10) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", 4_000_000, 4
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="module")
def fer():
    return pipeline("soft-fer", model=str(BUNDLED_MODEL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip of somebody who moves to the left, leaves, and comes back; a photograph, a cat and two broken files."""
    folder = tmp_path_factory.mktemp("files")
    person = Image.fromarray(skimage.data.astronaut()).crop((60, 0, 380, 240))
    walk = []
    for number in range(FRAMES):
        picture = Image.new("RGB", SIZE, (90, 110, 130))
        if not 10 <= number < 15:
            picture.paste(person, (20 - 2 * number, 0))
        walk.append(np.asarray(picture))
    write_video(folder / "walk.mp4", walk)
    (folder / "inside").mkdir()
    person.save(folder / "inside/person.png")
    Image.fromarray(skimage.data.chelsea()).save(folder / "inside/cat.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def overlap(box: dict, other: dict) -> float:
    """Intersection over union."""
    left, top = max(box["x"], other["x"]), max(box["y"], other["y"])
    right = min(box["x"] + box["width"], other["x"] + other["width"])
    bottom = min(box["y"] + box["height"], other["y"] + other["height"])
    inside = max(0, right - left) * max(0, bottom - top)
    return inside / (box["width"] * box["height"] + other["width"] * other["height"] - inside)


def predict(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main(["predict", *map(str, words)])
    return end.value.code


def test_faces_of_a_video_are_followed(fer, folder):
    frames = list(predict_video(folder / "walk.mp4", fer))
    assert [frame["frame"] for frame in frames] == list(range(FRAMES))
    assert [frame["time"] for frame in frames] == pytest.approx([number / 10 for number in range(FRAMES)])
    numbers = [[face["face"] for face in frame["faces"]] for frame in frames]
    assert numbers == [[0]] * 10 + [[]] * 5 + [[1]] * 9  # who comes back is somebody else: nobody is recognised
    places = [frame["faces"][0]["box"]["x"] for frame in frames[:10]]
    moved = np.diff(places)[:5]  # between two detections
    assert np.ptp(moved) < 0.2 and places[5] - places[0] == pytest.approx(-10, abs=5)
    every = list(predict_video(folder / "walk.mp4", fer, every=1, batch_size=3))
    for one, other in zip(frames[:6], every, strict=False):
        assert one["faces"][0]["box"]["x"] == pytest.approx(other["faces"][0]["box"]["x"], abs=5)
        assert one["faces"][0]["label"] == other["faces"][0]["label"] == "happy"


def test_frames_are_read_as_they_come(fer):
    """From a generator that would never end, with no file; detection is that of the pipeline."""
    looked_at = []

    def camera():
        while True:
            looked_at.append(len(looked_at))
            yield skimage.data.astronaut()[:240, 60:380]

    frames = predict_video(camera(), fer, every=2, batch_size=4)
    first = [next(frames) for _ in range(20)]
    assert len(looked_at) < 60 and first[19]["frame"] == 19 and first[19]["time"] is None
    (photograph,) = fer(skimage.data.astronaut()[:240, 60:380])
    assert first[0]["faces"][0]["soft_label"] == pytest.approx(photograph["soft_label"], abs=1e-5)
    assert first[0]["faces"][0]["box"] == photograph["box"]


def test_most_detections_look_at_a_shrunken_frame_and_no_face_is_missed(fer):
    """A small face that comes in is found when the frame is looked at as it is, a second later at most."""
    person = Image.fromarray(skimage.data.astronaut()).crop((60, 0, 380, 240))
    looked_at = []

    def detector(image):
        looked_at.append(image.shape[:2])
        return fer.face_detector(image)

    def film():
        for number in range(50):
            picture = Image.new("RGB", (640, 240), (90, 110, 130))
            picture.paste(person, (0, 0))
            if number >= 25:
                picture.paste(person.resize((107, 80)), (480, 80))
            yield np.asarray(picture)

    frames = list(predict_video(film(), pipeline("soft-fer", model=str(BUNDLED_MODEL), face_detector=detector)))
    whole = [size == (240, 640) for size in looked_at]
    assert whole == [True, False, False, False, False] * 2 and max(map(max, looked_at[1:5])) < 250
    assert [len(frame["faces"]) for frame in frames] == [1] * 25 + [2] * 25
    (still,) = fer(person)
    for frame in frames:
        assert overlap(frame["faces"][0]["box"], still["box"]) > 0.75 and frame["faces"][0]["label"] == "happy"
    gone = [*film()][30:32] + [np.zeros((240, 640, 3), np.uint8)] * 5
    assert [len(frame["faces"]) for frame in predict_video(iter(gone), fer, every=1)] == [2, 2, 0, 0, 0, 0, 0]


def test_smoothing_is_the_exponential_mean_of_log_odds(fer):
    left, right = skimage.data.astronaut()[:240, 60:380], skimage.data.astronaut()[:240, 60:380] // 3
    plain = list(predict_video([left, right, right], fer, every=1))
    smooth = list(predict_video([left, right, right], fer, every=1, smoothing=0.75))
    log_odds = [np.array([np.log(s / (1 - s)) for s in f["faces"][0]["soft_label"].values()]) for f in plain]
    expected = 0.75 * log_odds[0] + 0.25 * log_odds[1]
    assert list(smooth[1]["faces"][0]["soft_label"].values()) == pytest.approx(1 / (1 + np.exp(-expected)), rel=1e-3)
    expected = 0.75 * expected + 0.25 * log_odds[2]
    assert list(smooth[2]["faces"][0]["soft_label"].values()) == pytest.approx(1 / (1 + np.exp(-expected)), rel=1e-3)
    assert smooth[0] == plain[0]


def test_a_telephones_video_is_upright(folder, tmp_path):
    for degrees in (90, 180, 270):
        ffmpeg("-display_rotation", degrees, "-i", folder / "walk.mp4", "-c", "copy", tmp_path / "turned.mp4")
        ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", 1, tmp_path / "upright.png")
        first = next(read_frames(tmp_path / "turned.mp4"))
        assert np.array_equal(first.image, np.asarray(Image.open(tmp_path / "upright.png").convert("RGB")))


def test_broken_frames_are_counted_and_the_rest_is_read(folder, tmp_path):
    content = bytearray((folder / "walk.mp4").read_bytes())
    with av.open(str(folder / "walk.mp4")) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[8:10]:
        content[position : position + size] = bytes(size)
    (tmp_path / "scratched.mp4").write_bytes(content)
    broken: list[int] = []
    numbers = [frame.number for frame in read_frames(tmp_path / "scratched.mp4", broken)]
    assert broken and not set(broken) & set(numbers)
    assert sorted({*broken, *numbers}) == list(range(FRAMES)) and len(numbers) >= FRAMES - 4


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("sound.mp4", "sound, but no picture"),
        ("notes.txt", "not a readable video"),
        ("none.mp4", "No video file"),
        (97, "no camera 97"),
        ([], "no frame"),
    ],
)
def test_what_is_no_video_is_said_at_once(fer, folder, source, says):
    with pytest.raises((ValueError, OSError), match=says):
        predict_video(folder / source if isinstance(source, str) else source, fer)


def test_the_bars_of_one_face_cover_no_other():
    shares = dict.fromkeys(("neutral", "happy"), 0.5)
    boxes = [{"x": x, "y": y, "width": 80, "height": 100} for x, y in ((300, 100), (300, 230), (390, 100), (40, 360))]
    answers = [{"box": box, "label": "happy", "compound": None, "distribution": shares} for box in boxes]
    white = Image.new("RGB", (640, 480), "white")
    pixels = np.asarray(annotated(white, answers))
    for box in boxes:
        inside = pixels[box["y"] + 6 : box["y"] + box["height"] - 6, box["x"] + 6 : box["x"] + box["width"] - 6]
        assert (inside == 255).all()
    assert (pixels == 105).all(axis=2).sum() > 1000  # panels, half transparent


def test_a_row_for_each_face(folder, tmp_path, capsys):
    tables = {}
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        more = ["--annotate", tmp_path / "seen", "--plot", tmp_path / "time.html"] if name == "rows.csv" else []
        assert predict(folder, "--output", tmp_path / name, *more) == 1  # two files cannot be read
        said = capsys.readouterr()
        assert "20 faces in 5 files" in said.out
        assert f"No face in 1: {folder / 'inside/cat.jpg'}" in said.out
        assert f"Not readable 2: {folder / 'broken.jpg'}, {folder / 'sound.mp4'}" in said.out
        assert "broken.jpg is not a readable image" in said.err
    tables = {
        "jsonl": [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()],
        "csv": list(csv.DictReader((tmp_path / "rows.csv").open())),
        "parquet": pq.read_table(tmp_path / "rows.parquet").to_pylist(),
    }
    for rows in tables.values():
        assert len(rows) == 20 and [Path(row["source"]).name for row in rows] == ["person.png"] + ["walk.mp4"] * 19
        assert rows[0]["label"] == "happy" and float(rows[0]["width"]) > 40
    walk = tables["parquet"][1:]
    assert [row["face"] for row in walk] == [0] * 10 + [1] * 9 and walk[-1]["time"] == pytest.approx(2.3)
    assert tables["jsonl"][1]["soft_label"]["happy"] == pytest.approx(walk[0]["score_happy"])
    assert float(tables["csv"][1]["share_happy"]) == pytest.approx(walk[0]["share_happy"], abs=1e-5)
    assert tables["parquet"][0]["frame"] is None and walk[3]["frame"] == 3
    pictures = sorted(str(path.relative_to(tmp_path / "seen")) for path in (tmp_path / "seen").rglob("*.*"))
    assert pictures == ["inside/cat.jpg.jpg", "inside/person.png.jpg", "walk.mp4.mp4"]
    clip = tmp_path / "seen/walk.mp4.mp4"
    drawn, plain = (list(read_frames(file)) for file in (clip, folder / "walk.mp4"))
    assert len(drawn) == FRAMES and drawn[3].image.shape == plain[3].image.shape
    changed = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(drawn, plain, strict=True)]
    assert changed[0] > 5 * changed[12]  # a box and bars, and nothing where nobody is
    page = (tmp_path / "time.html").read_text()
    assert "walk.mp4" in page and "<svg" in page and Image.open(tmp_path / "time.png").width > 600
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_no_cell_is_a_formula(tmp_path, monkeypatch):
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "=1+1.png")
    monkeypatch.chdir(tmp_path)
    assert predict("=1+1.png", "--output", "rows.csv") in (0, None)
    (row,) = csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())
    assert row["source"] == "'=1+1.png" and row["label"] == "happy"


def test_killed_it_goes_on_and_two_at_once_are_kept_apart(folder, tmp_path, capsys):
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes((folder / "inside/person.png").read_bytes())
    command = [sys.executable, "-c", "from affectnet_plus_cli import main; main()", "predict"]
    command += [str(tmp_path), "--output", str(tmp_path / "rows.jsonl")]
    journal = tmp_path / ".rows.jsonl.unfinished"
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (journal.exists() and journal.read_text().count('"done"') > 3) and run.poll() is None:
        time.sleep(0.01)
    assert predict(tmp_path, "--output", tmp_path / "rows.jsonl") == 2
    assert "Another run is writing" in capsys.readouterr().err
    run.send_signal(signal.SIGKILL)
    run.wait()
    with open(journal, "a") as cut:
        cut.write('{"row": {"source": "cut sho')
    before = [line for line in journal.read_text().splitlines() if '"done"' in line]
    assert 3 < len(before) < 40
    (tmp_path / "00.png").write_bytes(b"it was done already")  # and is not read again
    assert predict(tmp_path, "--output", tmp_path / "rows.jsonl", "--faces", "crop") == 2  # other settings
    assert predict(tmp_path, "--output", tmp_path / "rows.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [Path(row["source"]).name for row in rows] == [f"{number:02}.png" for number in range(40)]
    assert predict(tmp_path, "--output", tmp_path / "rows.jsonl") == 2  # nothing is overwritten


def test_what_is_drawn_of_two_files_never_has_one_name(folder, tmp_path):
    for name in ("a/face.png", "b/face.png", "c/2-face.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((folder / "inside/person.png").read_bytes())
    words = [tmp_path / "c", tmp_path / "a", tmp_path / "b/face.png"]
    assert predict(*words, "--output", tmp_path / "rows.csv", "--annotate", tmp_path / "seen") == 0
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == [
        "2-face.png.jpg",
        "3-face.png.jpg",
        "face.png.jpg",
    ]


def test_what_is_missing_for_a_video_is_said_before_any_work(folder, tmp_path, monkeypatch, capsys):
    for module in ("av", "matplotlib"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            words = [folder, "--output", tmp_path / "rows.csv", "--plot", tmp_path / "time.html"]
            assert predict(*words) == 2 and f"needs {module}, which is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inside", "--output", "rows.xlsx"], "ends in none of .jsonl"),
        (["nobody.jpg", "--output", "rows.csv"], "no file 'nobody.jpg'"),
        (["notes.txt", "--output", "rows.csv"], "notes.txt is no picture"),
        (["empty", "--output", "rows.csv"], "no picture and no video in empty"),
        (["inside", "--output", "rows.csv", "--plot", "time.html"], "no video among"),
        (["inside", "--output", "rows.csv", "--face_detector", "nothing:here"], "MODULE:NAME"),
        (["inside", "--output", "rows.csv", "--model", "nowhere"], "--model nowhere is no folder"),
        (["walk.mp4", "--output", "rows.csv", "--every", "0"], "every is a number"),
        (["walk.mp4", "--output", "rows.csv", "--smoothing", "1"], "smoothing is from 0"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(folder, words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in folder.iterdir():
        os.symlink(path, tmp_path / path.name)
    (tmp_path / "empty").mkdir()
    assert predict(*words) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("affectnet-plus: error: ")]
    assert says in message and not (tmp_path / "rows.csv").exists()
