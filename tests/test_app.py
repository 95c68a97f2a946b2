"""`affectnet-plus app`: a server without PyTorch, looked at by Chromium, and nothing asked of anybody else."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import expect
from test_predict import ffmpeg, write_video

from affectnet_plus.inference.app import POLICY
from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX
from affectnet_plus_cli import main

PATIENCE = 30_000  # milliseconds
WITHOUT_TORCH = """
import signal, sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "transformers"]))  # each import fails
"""
# It says on standard output how often the network ran and where it connects to.
SERVER = f"""{WITHOUT_TORCH}
from affectnet_plus.modeling import OnnxPipeline
from affectnet_plus_cli import main

def note(event, words):
    if event == "socket.connect" and isinstance(words[1], tuple):
        print("connects to", words[1][0], flush=True)
    if event == "socket.getaddrinfo":
        print("connects to", words[0], flush=True)

def run_network(self, pixel_values, run=OnnxPipeline.run_network):
    print("network", flush=True)
    return run(self, pixel_values)

sys.addaudithook(note)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
OnnxPipeline.run_network = run_network
main(sys.argv[1:])
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Server:
    def __init__(self, command: list, log: Path, **environment):
        self.log = log
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=out, stderr=out, env=os.environ | environment
            )
        end = time.monotonic() + 60
        while "Ctrl-C ends it" not in self.said() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert "Ctrl-C ends it" in self.said(), self.said()
        self.url = re.search(r"http://\S+", self.said())[0]

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def test_an_interrupt_ends_it_with_one_line_and_leaves_nothing(tmp_path):
    server = Server(["-c", SERVER, "app", "--port", free_port()], tmp_path / "log", TMPDIR=str(tmp_path))
    before = server.said()
    with urllib.request.urlopen(server.url) as answer:
        assert answer.status == 200
    for _ in range(2):  # the impatient
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert server.process.wait(30) == 130
    said = [line for line in server.said().removeprefix(before).splitlines() if "connects to" not in line]
    assert said == ["affectnet-plus: interrupted. The page is closed."]
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url)
    assert not [path for path in tmp_path.iterdir() if "affectnet" in path.name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of two people, of one, of nobody; a clip of one; and what is none of these."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run([sys.executable, Path(__file__).with_name("photographs.py"), folder], check=True)
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    person = np.ascontiguousarray(skimage.data.astronaut()[:240, 60:380])
    write_video(folder / "person.mp4", [person] * 20)
    (folder / "broken.mp4").write_bytes(b"no video")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "temporary").mkdir()
    server = Server(["-c", SERVER, "app", "--port", free_port()], folder / "log", TMPDIR=str(folder / "temporary"))
    yield server
    server.end()
    left = [path for path in (folder / "temporary").rglob("*") if path.suffix or "affectnet" in path.name]
    assert [path.name for path in left if path.name != ".ses"] == []  # no picture stays behind
    assert set(re.findall("connects to (.*)", server.said())) <= {"127.0.0.1", "localhost"}
    assert "Traceback" not in server.said()


@pytest.fixture
def page(server, chromium):
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    asked, refused = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(server.url)
    yield page
    strangers = {
        url for url in asked if not url.startswith(("data:", "blob:")) and urlsplit(url).hostname != "127.0.0.1"
    }
    assert len(asked) > 10 and not strangers and not refused
    page.close()


def give(page, file: Path) -> None:
    room = page.get_by_role("tabpanel")
    place, clear = room.locator("input[type=file]"), room.get_by_role("button", name="Clear")
    place.or_(clear).first.wait_for(state="attached")
    if not place.count():
        clear.click()
    with page.expect_response(re.compile("/upload")):
        place.set_input_files(file)
    page.wait_for_timeout(1000)  # until the page knows what has become of it


def said(page):
    return page.get_by_role("tabpanel").locator(".said")


def rows_of(page, kind: str) -> list[dict]:
    with page.expect_download() as coming:
        page.get_by_role("tabpanel").get_by_role("button", name=f"Rows as {kind}").or_(
            page.get_by_role("tabpanel").get_by_role("link", name=f"Rows as {kind}")
        ).first.click()
    text = coming.value.path().read_text()
    assert coming.value.suggested_filename == f"faces.{kind.lower()}"
    return list(csv.DictReader(text.splitlines())) if kind == "CSV" else list(map(json.loads, text.splitlines()))


def test_a_photograph(page, server, folder):
    give(page, folder / "two-people.png")
    cards = page.locator("article.face")
    expect(cards).to_have_count(2, timeout=PATIENCE)
    expect(said(page)).to_have_text("2 faces, the largest first.")
    assert [cards.nth(number).locator(".bar").count() for number in range(2)] == [8, 8]
    assert [cards.nth(number).locator("h3").inner_text() for number in range(2)] == ["neutral", "happy"]
    ran = server.said().count("network")
    assert ran == 1

    happy = cards.nth(1).locator("p.present")
    expect(happy).to_have_text("Present: happy")
    threshold = page.get_by_role("spinbutton", name="Present from")
    for value, neutral in (("0.9", "Nothing reaches 0.90"), ("0.05", "Present: neutral, sad, contempt")):
        threshold.fill(value)
        threshold.press("Enter")
        expect(cards.nth(0).locator("p.present")).to_have_text(neutral, timeout=PATIENCE)
    expect(cards.nth(0).locator("h3")).to_have_text("contemptuously sad")
    assert server.said().count("network") == ran

    rows, lines = rows_of(page, "CSV"), rows_of(page, "JSONL")
    assert [row["label"] for row in rows] == [line["label"] for line in lines] == ["neutral", "happy"]
    assert [row["source"] for row in rows] == ["two-people.png"] * 2 and rows[0]["compound"] == "contemptuously sad"
    shown = [float(score) for score in cards.nth(1).locator("dd.score").all_inner_texts()]
    assert shown == pytest.approx(list(lines[1]["soft_label"].values()), abs=0.006)

    give(page, folder / "astronaut.png")
    expect(cards).to_have_count(1, timeout=PATIENCE)
    assert len(rows_of(page, "CSV")) == 1 and server.said().count("network") == ran + 1


def test_a_small_face_is_believed_less(page, folder, tmp_path):
    Image.open(folder / "astronaut.png").resize((100, 100)).save(tmp_path / "small.png")
    give(page, tmp_path / "small.png")
    expect(page.locator("article.face")).to_have_count(1, timeout=PATIENCE)
    expect(page.locator("article.face p.small")).to_contain_text("Small: the model wants 48 pixels a side.")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cat.jpg", "No face was found in cat.jpg."),
        ("broken.jpg", "broken.jpg is not a readable image: replace it or leave it out."),
    ],
)
def test_a_photograph_without_an_answer(page, folder, name, says):
    give(page, folder / "astronaut.png")
    expect(page.locator("article.face")).to_have_count(1, timeout=PATIENCE)
    give(page, folder / name)
    expect(said(page)).to_have_text(says, timeout=PATIENCE)
    expect(page.locator("article.face")).to_have_count(0)
    expect(page.get_by_text("Rows as CSV")).to_have_count(0)


def test_the_camera(page):
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("[...document.querySelectorAll('video')].some(video => video.videoWidth > 0)")
    page.get_by_label("capture photo").click()
    expect(said(page)).to_contain_text("No face was found in", timeout=PATIENCE)


def test_a_video(page, folder):
    page.get_by_role("tab", name="Video").click()
    go = page.get_by_role("button", name="Find the faces")
    go.click()
    expect(said(page)).to_have_text("Choose a video first.", timeout=PATIENCE)
    for name, says in (
        ("sound.mp4", "sound.mp4 has sound, but no picture"),
        ("broken.mp4", "broken.mp4 is not a readable"),
    ):
        give(page, folder / name)
        go.click()
        expect(said(page)).to_contain_text(says, timeout=PATIENCE)
        assert str(folder) not in said(page).inner_text() and "/" not in said(page).inner_text()
    give(page, folder / "person.mp4")
    go.click()
    expect(said(page)).to_have_text("1 face in 20 frames.", timeout=PATIENCE)
    expect(page.locator(".timeline img")).to_be_visible()
    page.wait_for_function("document.querySelector('.timeline img').naturalWidth > 600")
    rows = rows_of(page, "CSV")
    assert [row["frame"] for row in rows] == list(map(str, range(20))) and {row["source"] for row in rows} == {
        "person.mp4"
    }
    page.wait_for_function(
        "[...document.querySelectorAll('video')].some(v => v.src.includes('faces') && v.duration > 1)"
    )


def test_no_page_is_wider_than_a_telephone(page, folder):
    page.set_viewport_size({"width": 420, "height": 900})
    give(page, folder / "two-people.png")
    expect(page.locator("article.face")).to_have_count(2, timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_browser_is_told_to_ask_nobody_else(server):
    with urllib.request.urlopen(server.url) as answer:
        assert answer.headers["content-security-policy"] == POLICY and "http" not in POLICY


def command(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main(["app", *map(str, words)])
    return end.value.code or 0


def test_a_space_that_starts_offline(tmp_path, capsys):
    shutil.copy(BUNDLED_ONNX, tmp_path / "mine.onnx")
    assert command("--export", tmp_path / "space", "--model", tmp_path / "mine.onnx") == 0
    out = capsys.readouterr().out
    assert "README.md, app.py, model.onnx, requirements.txt" in out and "private" in out
    assert (tmp_path / "space/requirements.txt").read_text().startswith("affectnet-plus[app]==")
    _, front, _ = (tmp_path / "space/README.md").read_text().split("---\n")
    front = dict(line.split(": ") for line in front.splitlines())
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py"
    (tmp_path / "mine.onnx").unlink()
    where = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(free_port())}
    start = f"{WITHOUT_TORCH}import runpy; runpy.run_path({str(tmp_path / 'space/app.py')!r})"
    server = Server(["-c", start], tmp_path / "log", **where)
    try:
        assert "Everybody who reaches this machine can use the page" in server.said()
        with urllib.request.urlopen(f"http://127.0.0.1:{where['GRADIO_SERVER_PORT']}") as answer:
            text = answer.read().decode()
        assert "The model is model.onnx." in text
    finally:
        server.end()


def test_a_space_of_the_bundled_model_and_of_a_folder(tmp_path, capsys):
    assert command("--export", tmp_path / "bundled") == 0
    assert {path.name for path in (tmp_path / "bundled").iterdir()} == {"app.py", "requirements.txt", "README.md"}
    assert "private" not in capsys.readouterr().out
    assert command("--export", tmp_path / "folder", "--model", BUNDLED_MODEL) == 0
    assert (tmp_path / "folder/requirements.txt").read_text().startswith("affectnet-plus[app,torch]==")
    assert (tmp_path / "folder/model/model.safetensors").stat().st_size > 100_000
    assert 'with_name("model")' in (tmp_path / "folder/app.py").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nowhere"], "--model nowhere is no folder"),
        (["--model", "gone.onnx"], "no file 'gone.onnx'"),
        (["--face_detector", "nothing:here"], "--face_detector is"),
        (["--port", "99999"], "--port 99999 cannot be listened on"),
        (["--port", "TAKEN"], "name another port"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),
        (["--export", "full"], "--export full is there already: name a folder that is new or empty."),
        (["--export", "new", "--port", "80", "--device", "cpu"], "leave out --device, --port."),
        (["--export", "new", "--model", "gone.onnx"], "no file 'gone.onnx'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert command(*(str(taken.getsockname()[1]) if word == "TAKEN" else word for word in words)) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("affectnet-plus: error: ")]
    assert says in message and not (tmp_path / "new").exists()


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "affectnet_plus.inference.app")
    assert command() == 2
    assert 'needs gradio, which is not installed: pip install "affectnet-plus[app]"' in capsys.readouterr().err
