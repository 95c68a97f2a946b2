"""`affectnet-plus app`: faces in photographs and videos, looked at in a browser. Nothing leaves the machine."""

import base64
import contextlib
import io
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from starlette.middleware import Middleware

from affectnet_plus.modeling import BUNDLED_MODEL, COMPOUND_THRESHOLD, crop_face, open_rgb
from affectnet_plus.modeling.face_pipeline import FACES_OF_ONE_IMAGE
from affectnet_plus.releases import __version__

from .annotate import COLORS, OTHER, annotated
from .loading import pipeline_of
from .predict import rows_of_video
from .table import Journal, row_of, rows_in, write_table
from .timeline import write_timeline
from .video import frames_in

LOOPBACK = "127.0.0.1"
# For the browser, in case that Gradio should want something from elsewhere: it asks this address alone.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
TITLE = """# How much of each expression?
Every face gets eight scores, not one label, as in [AffectNet+](https://arxiv.org/abs/2410.22506)."""
BUNDLED = (
    "The bundled model is small and was trained on [FER+](https://github.com/microsoft/FERPlus), grey faces of 48 "
    "pixels. It seldom finds disgust and contempt."
)
LIMITS = "Scores describe how faces look to annotators, not what people feel. Do not decide about people by them."
# Of a Space, which says by GRADIO_SERVER_NAME where to listen.
_TEMPLATES = {
    "app.py": '''"""affectnet-plus app, as a Space."""

import contextlib
import os
from pathlib import Path

from affectnet_plus.inference.app import app

with contextlib.suppress(KeyboardInterrupt):
    app({named}host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
''',
    "requirements.txt": "affectnet-plus[{extras}]=={version}\n",
    "README.md": """---
title: Facial expressions
sdk: gradio
sdk_version: {gradio}
app_file: app.py
---

Finds the faces in a photograph or a video and says how far each of eight expressions is present in them. Written by
`affectnet-plus app --export`.
""",
}
_SECONDS_KEPT = 3600  # of uploads and what is made of them
_PORTRAIT = 144  # pixels
_ENDING = (signal.SIGINT, signal.SIGTERM)
_HEIGHT = "min(380px, 75vw)"


class _Seen(NamedTuple):
    """A photograph and what the network gave for its faces, not yet worded."""

    name: str
    image: Image.Image
    faces: list[dict]
    outputs: list[dict]
    sides: list[int]


class _OwnAddressOnly:
    """Adds the policy to each answer of the server."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def app(
    model: str | None = None,
    device: str | None = None,
    face_detector: str = "default",
    host: str = LOOPBACK,
    port: int | None = None,
    export: str | None = None,
) -> None:
    """Serve the page until it is interrupted, or write it as a Space.

    Args:
        model: folder or Hub id of one of our models, or a file of `export-onnx`; None for the bundled one.
        device: "cpu", "cuda:0" ...; None for the best there is.
        face_detector: "default", or MODULE:NAME of a callable (see `SoftFerPipeline`).
        host: the address to listen on; others than this machine's own for itself open the page to the network.
        port: None for the first that is free, from 7860.
        export: a folder to write the page to as a Space of the Hub, with the model if that is a folder or a file, in
            place of serving it.

    Raises:
        ValueError: the model, the detector or the address is none, or the folder is not empty.
        ImportError: what they need is not installed.
        KeyboardInterrupt: it was interrupted, or told to end by SIGTERM.
    """
    if export:
        others = {"device": device, "face_detector": face_detector != "default", "host": host != LOOPBACK, "port": port}
        if given := [f"--{name}" for name, value in others.items() if value]:
            raise ValueError(f"--export writes a Space, which has its own machine: leave out {', '.join(given)}.")
        return _export(Path(export), model)
    _check_address(host, port)
    fer = pipeline_of(model, device, face_detector=face_detector)
    with _handlers_restored(), tempfile.TemporaryDirectory(prefix="affectnet-plus-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # pictures do not stay behind then, either
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        page = build(fer)
        *_, address, _ = page.launch(
            server_name=host, server_port=port, share=False, ssr_mode=False, pwa=False, mcp_server=False, quiet=True,
            inbrowser=False, run_history=False, enable_monitoring=False, footer_links=[], state_session_capacity=50,
            theme=_theme(), css_paths=Path(__file__).with_name("app.css"), prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(_OwnAddressOnly)]},
        )  # fmt: skip
        if not _is_loopback(host):
            print(
                f"Everybody who reaches this machine can use the page: leave out --host {host} to keep it to yourself."
            )
        print(f"{address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()  # Gradio's `block_thread` hides how it ended
        finally:
            for number in _ENDING:  # once is enough: nothing cuts the clearing away short
                signal.signal(number, signal.SIG_IGN)
            page.close(verbose=False)


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build(fer: Any) -> gr.Blocks:
    """The page, on a `soft-fer` pipeline of any kind."""
    expressions = fer.model.config.expressions

    def look(file: str | None, threshold: float) -> tuple:
        if file is None:
            return None, *nothing("")
        try:
            image = open_rgb(file, Path(file).name)
            prepared = fer.preprocess(image, faces="detect")
            pixel_values, sides = [values for values, _ in prepared["crops"]], [side for _, side in prepared["crops"]]
            outputs = list(fer.outputs_of(pixel_values, FACES_OF_ONE_IMAGE))
            seen = _Seen(Path(file).name, image, prepared["faces"], outputs, sides)
            return seen, *word(seen, threshold)
        except (ValueError, OSError) as error:
            return None, *nothing(str(error))

    def word(seen: _Seen | None, threshold: float) -> tuple:
        """The answers of which so much counts as present; the network is not asked again."""
        if seen is None:
            return (gr.skip(),) * 4
        if not seen.faces:
            return nothing(f"No face was found in {seen.name}.")
        answers = [
            fer.answer(output, side, threshold=threshold, compound_threshold=threshold) | face | {"face": number}
            for number, (output, side, face) in enumerate(zip(seen.outputs, seen.sides, seen.faces, strict=True))
        ]
        for answer in answers:
            portrait = io.BytesIO()
            crop_face(seen.image, answer, margin=0.2).resize((_PORTRAIT, _PORTRAIT)).save(portrait, "JPEG")
            answer["portrait"] = base64.b64encode(portrait.getvalue()).decode()
        said = f"{_count(len(answers), 'face')}, the largest first."
        cards = _html(said=said, faces=answers, threshold=threshold, image_size=fer.model.config.image_size)
        rows = [row_of(Path(seen.name), None, None, answer) for answer in answers]
        with Journal(_new_folder() / "rows", {}) as journal:
            for row in rows:
                journal.write(row)
        return annotated(seen.image, answers, bars=False), cards, *_tables(journal.path, expressions)

    def watch(
        file: str | None,
        every: float,
        smoothing: float,
        draw: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        if file is None:
            return nothing("Choose a video first.")
        source, folder, frames, total = Path(file), _new_folder(), 0, 0
        broken: list[int] = []
        faces: set[int] = set()
        drawn = folder / f"{source.stem}-faces.mp4" if draw else None
        try:
            with Journal(folder / "rows", {}) as journal:
                for rows in rows_of_video(source, fer, int(every), smoothing, FACES_OF_ONE_IMAGE, broken, drawn):
                    total = total or frames_in(source)
                    frames += 1
                    progress((frames, max(total, frames)), unit="frames")
                    for row in rows:
                        faces.add(row["face"])
                        journal.write(row | {"source": source.name})
        except (ValueError, OSError) as error:
            return nothing(str(error).replace(str(source), source.name))
        said = f"{_count(len(faces), 'face') if faces else 'No face'} in {_count(frames, 'frame')}."
        if broken:
            said += f" {_count(len(broken), 'frame')} could not be decoded."
        if not faces:
            return nothing(said)
        write_timeline(rows_in(journal.path), folder / "timeline.html", expressions)
        timeline = base64.b64encode((folder / "timeline.png").read_bytes()).decode()
        return drawn, _html(said=said, timeline=timeline), *_tables(journal.path, expressions)

    with gr.Blocks(title="affectnet-plus", analytics_enabled=False, delete_cache=(600, _SECONDS_KEPT)) as page:
        gr.Markdown(TITLE, elem_classes="title")
        with gr.Tab("Photograph"):
            with gr.Row():
                with gr.Column():
                    photograph = gr.Image(
                        label="Photograph", sources=["upload", "webcam", "clipboard"], height=_HEIGHT, buttons=[]
                    )
                    # The file as it was uploaded: `open_rgb` says what an image is.
                    photograph.preprocess = lambda payload: payload and payload.path  # type: ignore
                    threshold = gr.Slider(
                        0.05, 0.95, COMPOUND_THRESHOLD, step=0.05, label="Present from",
                        info="An expression with this score counts as present; two such make a compound.",
                    )  # fmt: skip
                with gr.Column():
                    picture = gr.Image(
                        label="Found", height=_HEIGHT, format="jpeg", interactive=False,
                        buttons=["download", "fullscreen"],
                    )  # fmt: skip
            cards = gr.HTML()
            tables = _table_buttons()
            seen = gr.State(time_to_live=_SECONDS_KEPT)
            shown = [picture, cards, *tables]
            photograph.input(look, [photograph, threshold], [seen, *shown], show_progress_on=cards)
            threshold.change(word, [seen, threshold], shown, show_progress="hidden", trigger_mode="always_last")
        with gr.Tab("Video"):
            with gr.Row():
                with gr.Column():
                    video = gr.Video(
                        label="Video", sources=["upload", "webcam"], height=_HEIGHT, buttons=[], elem_classes="asked"
                    )
                    every = gr.Slider(
                        1, 30, 5, step=1, label="Detect in every n-th frame", info="In between, boxes move evenly."
                    )
                    smoothing = gr.Slider(
                        0, 0.95, 0.5, step=0.05, label="Smoothing", info="The weight of the frame before; 0 for none."
                    )
                    draw = gr.Checkbox(True, label="Draw boxes and bars into the video (takes longer)")
                    go = gr.Button("Find the faces", variant="primary")
                with gr.Column():
                    moving = gr.Video(label="Found", height=_HEIGHT, interactive=False, buttons=["download"])
            timeline = gr.HTML()
            tables = _table_buttons()
            go.click(watch, [video, every, smoothing, draw], [moving, timeline, *tables], show_progress_on=timeline)
        name = fer.model.config.name_or_path
        bundled = Path(name).is_relative_to(BUNDLED_MODEL)
        about = BUNDLED if bundled else f"The model is {Path(name).name}."
        gr.Markdown(f"{about} {LIMITS}", elem_classes="about")
    return page


def nothing(said: str) -> tuple:
    """A sentence in place of a picture, cards and tables."""
    hidden = gr.DownloadButton(visible=False)
    return None, _html(said=said), hidden, hidden


def _html(**what: Any) -> str:
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return pages.get_template("faces.html.jinja").render(colors=COLORS, other=OTHER, **what)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _new_folder() -> Path:
    """Where Gradio keeps uploads: it forgets what lies there."""
    return Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))


def _table_buttons() -> list[gr.DownloadButton]:
    with gr.Row():
        return [gr.DownloadButton(f"Rows as {kind}", visible=False, size="md") for kind in ("CSV", "JSONL")]


def _tables(journal: Path, expressions: list[str]) -> list[gr.DownloadButton]:
    files = [journal.with_name(f"faces.{kind}") for kind in ("csv", "jsonl")]
    for file in files:
        write_table(journal, file, expressions)
    return [gr.DownloadButton(value=file, visible=True) for file in files]


def _theme() -> gr.themes.Base:
    """Fonts that are there already."""
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_loopback


def _check_address(host: str, port: int | None) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--host {host} --port {port or 'not given'} cannot be listened on ({error}): name another port, or leave "
            "both out."
        ) from error


def _export(folder: Path, model: str | None) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"--export {folder} is there already: name a folder that is new or empty.")
    fer = pipeline_of(model, "cpu")  # a model that cannot be loaded is said here, not on the Hub
    folder.mkdir(parents=True, exist_ok=True)
    named, extras = "", "app"
    if model is not None and model.endswith(".onnx"):
        shutil.copy(model, folder / "model.onnx")
        named = 'model=str(Path(__file__).with_name("model.onnx")), '
    elif model is not None:
        extras = "app,torch"
        named = f"model={model!r}, "
        if Path(model).is_dir():
            fer.model.save_pretrained(folder / "model")
            named = 'model=str(Path(__file__).with_name("model")), '
    texts = {"named": named, "extras": extras, "version": __version__, "gradio": gr.__version__}
    for name in ("app.py", "requirements.txt", "README.md"):
        (folder / name).write_text(_TEMPLATES[name].format(**texts), encoding="utf-8")
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    print(f"python {folder / 'app.py'} starts it here, hf upload NAME {folder} --repo-type space on the Hub.")
    if named:
        print("Weights trained on AffectNet may fall under its licence: keep such a Space private.")
