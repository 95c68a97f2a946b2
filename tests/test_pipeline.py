"""`pipeline("soft-fer")`: every kind of input, every kind of image."""

import base64
import functools
import http.server
import io
import os
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from hostile import EPS, ghostscript
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.data import astronaut
from transformers import ViTImageProcessor, ViTImageProcessorPil, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import BUNDLED_ONNX, EBCConfig, EBCForImageClassification, ImageError, OnnxPipeline


@pytest.fixture(scope="module")
def fer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = EBCForImageClassification(EBCConfig(backbones=["test_vit"], image_size=64))
    for parameter in model.parameters():
        parameter.data *= 1.5  # scores that differ from face to face
    model.save_pretrained(folder)
    return pipeline("soft-fer", faces="crop", model=str(folder))


@pytest.fixture(scope="module")
def face() -> Image.Image:
    return Image.fromarray(astronaut()[10:210, 125:325])


def saved(image, format, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(file)


def same(answer, other):
    assert answer["soft_label"] == pytest.approx(other["soft_label"], abs=1e-6)
    assert answer["label"] == other["label"]


def test_the_seams_in_transformers_have_not_moved():
    """Those that would be missed in silence: what is imported from there says so itself."""
    for module, name, user in (
        ("models.auto.modeling_auto", "AutoModelForImageClassification", "affectnet_plus._make_models_known"),
        ("pipelines", "PIPELINE_REGISTRY", "affectnet_plus._make_task_known"),
        ("pipelines", '"_load_image_processor"', "SoftFerPipeline"),
        ("pipelines", "AutoConfig.from_pretrained(model, _from_pipeline=task", "modeling/register_task.py"),
        ("pipelines.base", "._registered_impl = ", "modeling/register_task.py"),
        ("pipelines.base", "._sanitize_parameters(", "SoftFerPipeline"),
        ("trainer", "accepts_loss_kwargs", "SoftLabelModel"),
        ("modeling_utils", "self._init_weights(", "SoftLabelModel"),
        ("pipelines", "config.custom_pipelines", "SoftLabelModel._add_code"),
        ("dynamic_module_utils", "auto_map", "SoftLabelModel._add_code"),
    ):
        path = Path(transformers.__file__).parent / module.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        moved = f"transformers {transformers.__version__} has no {name} in {module}, which {user} relies on"
        assert name in (source.read_text() if source.exists() else ""), moved


def test_output(fer, face):
    answer = fer(face)
    assert list(answer) == ["label", "score", "soft_label", "distribution", "labels", "compound", "low_resolution"]
    assert tuple(answer["soft_label"]) == tuple(answer["distribution"]) == EXPRESSIONS
    assert answer["score"] == max(answer["soft_label"].values()) == answer["soft_label"][answer["label"]]
    assert sum(answer["distribution"].values()) == pytest.approx(1)
    total = sum(answer["soft_label"].values())
    assert answer["distribution"]["sad"] == pytest.approx(answer["soft_label"]["sad"] / total)
    processor = ViTImageProcessorPil(**fer.image_processor.to_dict())
    pixel_values = processor(images=face, return_tensors="pt")["pixel_values"]
    expected = fer.model(pixel_values).logits.sigmoid()[0].tolist()
    assert list(answer["soft_label"].values()) == pytest.approx(expected)


def test_an_unusual_image_processor_is_used(fer, face):
    unusual = ViTImageProcessor(**fer.image_processor.to_dict() | {"rescale_factor": 1 / 512})
    assert pipeline("soft-fer", model=fer.model, image_processor=unusual, faces="crop")(face) != fer(face)
    expected = fer.model(unusual(images=face, return_tensors="pt")["pixel_values"]).logits.sigmoid()[0].tolist()
    answer = pipeline("soft-fer", model=fer.model, image_processor=unusual, faces="crop")(face)
    assert list(answer["soft_label"].values()) == pytest.approx(expected)


def test_nan_is_no_answer(fer, face, tmp_path):
    fer.model.save_pretrained(tmp_path / "diverged")
    weights = load_file(tmp_path / "diverged/model.safetensors")
    weights["experts.sad.classifiers.0.head.bias"].fill_(torch.nan)
    save_file(weights, tmp_path / "diverged/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="diverged gives NaN for this face.*weights are broken"):
        pipeline("soft-fer", faces="crop", model=str(tmp_path / "diverged"))(face)


def test_scores_too_small_for_a_sum_have_a_distribution(fer, face, tmp_path):
    fer.model.save_pretrained(tmp_path)
    config = EBCConfig.from_pretrained(tmp_path)
    config.calibration = {name: {"log_odds_shift": -300.0 + 20 * i} for i, name in enumerate(EXPRESSIONS)}
    config.save_pretrained(tmp_path)
    answer = pipeline("soft-fer", faces="crop", model=str(tmp_path))(face)
    assert sum(answer["soft_label"].values()) < 1e-60 and sum(answer["distribution"].values()) == pytest.approx(1)
    assert answer["distribution"]["contempt"] > answer["distribution"]["neutral"]


def test_threshold_and_top_k(fer, face):
    scores = fer(face)["soft_label"]
    ranked = sorted(scores, key=scores.get, reverse=True)
    between = (scores[ranked[2]] + scores[ranked[3]]) / 2
    assert fer(face)["labels"] == [name for name in ranked if scores[name] >= 0.5]
    assert fer(face, threshold=between)["labels"] == ranked[:3]
    assert fer(face, threshold=between, top_k=2)["labels"] == ranked[:2]
    assert fer(face, top_k=5)["labels"] == ranked[:5]
    assert fer(face, threshold=1.0)["labels"] == []
    for wrong in ({"threshold": 1.5}, {"top_k": 0}, {"top_k": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fer(face, **wrong)


def test_every_kind_of_input(fer, face, tmp_path):
    file = tmp_path / "face.png"
    face.save(file)
    expected = fer(face)
    array = np.asarray(face)
    same(fer(str(file)), expected)
    same(fer(file), expected)
    same(fer(array), expected)
    same(fer(array.astype(np.float32) / 255), expected)
    overshooting = array.astype(np.float32) / 255
    overshooting[0, 0] = 1.004  # as after bicubic scaling
    same(fer(overshooting), fer(overshooting.clip(0, 1)))
    same(fer(torch.from_numpy(array.copy()).permute(2, 0, 1)), expected)
    many = fer([str(file), face, array], batch_size=2)
    assert isinstance(many, list) and len(many) == 3
    for answer in many:
        same(answer, expected)
    for lazy in ((image for image in [face] * 5), iter([face] * 5)):
        assert sum(1 for answer in fer(lazy, batch_size=2) if answer["label"] == expected["label"]) == 5


def test_url(fer, face, tmp_path):
    face.save(tmp_path / "face.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        same(fer(f"http://127.0.0.1:{server.server_port}/face.png"), fer(face))
        server.shutdown()


@pytest.mark.parametrize("streaming", [False, True])
def test_dataset(fer, face, streaming):
    faces = [face, face.rotate(90), face.rotate(180)]
    rows = datasets.Dataset.from_dict({"image": faces, "age": [1, 2, 3]})
    rows = rows.cast_column("image", datasets.Image())
    answers = list(fer(rows.to_iterable_dataset() if streaming else rows, batch_size=2))
    assert len(answers) == 3
    for answer, image in zip(answers, faces, strict=True):
        same(answer, fer(image))
    if streaming:
        mapped = rows.to_iterable_dataset().map(lambda row: row)  # knows no columns any more
        assert len(list(fer(mapped))) == 3
    column = fer((rows.to_iterable_dataset() if streaming else rows)["image"], batch_size=2)
    assert isinstance(column, list) != streaming
    for answer, image in zip(column, faces, strict=True):
        same(answer, fer(image))
    same(fer(rows.cast_column("image", datasets.Image(decode=False))[1]), answers[1])
    with pytest.raises(ValueError, match="rename_column"):
        fer(rows.rename_column("image", "face"))
    assert fer([]) == []


def sixteen_bit(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)


def of_floats(image: Image.Image, most: int) -> Image.Image:
    return saved(Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) / most), "TIFF")


def turned(image: Image.Image) -> Image.Image:
    """Stored lying on its side, with the EXIF tag that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def translucent(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return saved(image, "PNG")


# an unusual image of a face, and how its plain RGB twin comes about
TWINS = {
    "grey": (lambda f: saved(f.convert("L"), "PNG"), lambda f: f.convert("L").convert("RGB")),
    "grey with alpha": (lambda f: saved(f.convert("LA"), "PNG"), lambda f: f.convert("L").convert("RGB")),
    "RGBA": (translucent, lambda f: f),
    "CMYK": (lambda f: saved(f.convert("CMYK"), "TIFF"), lambda f: f.convert("CMYK").convert("RGB")),
    "palette": (lambda f: saved(f.quantize(64), "PNG"), lambda f: f.quantize(64).convert("RGB")),
    "black and white": (lambda f: saved(f.convert("1"), "PNG"), lambda f: f.convert("1").convert("RGB")),
    "16-bit PNG": (lambda f: saved(sixteen_bit(f.convert("L")), "PNG"), lambda f: f.convert("L").convert("RGB")),
    "16-bit TIFF": (lambda f: saved(sixteen_bit(f.convert("L")), "TIFF"), lambda f: f.convert("L").convert("RGB")),
    "floats in [0, 1]": (lambda f: of_floats(f, 255), lambda f: f.convert("L").convert("RGB")),
    "floats to 255": (lambda f: of_floats(f, 1), lambda f: f.convert("L").convert("RGB")),
    "32-bit integer": (lambda f: sixteen_bit(f.convert("L")).convert("I"), lambda f: f.convert("L").convert("RGB")),
    "EXIF-rotated": (turned, lambda f: f),
}


@pytest.mark.parametrize("kind", TWINS)
def test_unusual_image_answers_like_its_plain_twin(fer, face, kind, tmp_path):
    unusual, twin = (make(face) for make in TWINS[kind])
    expected = fer(twin)
    same(fer(unusual), expected)
    if unusual.format:  # and from a file
        file = tmp_path / f"face.{unusual.format.lower()}"
        unusual.save(file, exif=unusual.getexif())
        same(fer(str(file)), expected)


def test_sixteen_bit_array_is_scaled_not_clipped(fer, face):
    same(fer(np.asarray(face).astype(np.uint16) * 257), fer(face))
    same(fer(np.asarray(face).astype(np.int16)), fer(face))  # which has no room for 16 bits: 8 bits, widened


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ("no_such_face.jpg", FileNotFoundError, "no_such_face.jpg"),
        (np.zeros((2, 40, 40, 3), np.uint8), ValueError, "several images go into a list"),
        (np.full((40, 40), -1.0), ValueError, "floats in \\[0, 1\\]"),
        ({"picture": 1}, ValueError, "'image'.*picture"),
        (42, TypeError, "not int"),
        (np.zeros((0, 40, 3), np.uint8), ImageError, r"not \(0, 40, 3\)"),
        (
            np.zeros((40, 40), [(f"field{n}", "u1") for n in range(99)]),
            ImageError,
            "not ..'field0', 'u1'.*: convert it",
        ),
        (np.full((40, 40), None), ImageError, "not object: convert it"),
        (np.broadcast_to(np.uint8(0), (100_000, 100_000)), ImageError, "refused as too large an image"),
        (torch.empty(3, 40, 40, device="meta"), ImageError, "torch tensor without plain numbers"),
        (torch.zeros(40, 40).to_sparse(), ImageError, "torch tensor without plain numbers"),
        ({"bytes": 1, "path": None}, TypeError, "not NoneType"),
        ({"x" * 1_000_000: 1}, ValueError, "'image'"),
        ({"bytes": b"x", "path": "x" * 1_000_000}, ImageError, "is not a readable image"),
        ("x" * 1_000_000, ImageError, "is not a readable image"),
        ("no face?\n" * 100_000, FileNotFoundError, "No image file"),
        (f"data:{'x' * 1_000_000}", ImageError, "is not a readable image"),
        (f"http://127.0.0.1:9/{'x' * 1_000_000}", ImageError, "cannot be fetched"),
    ],
)
def test_what_is_no_image_is_said(fer, wrong, error, says):
    for images in (wrong, [wrong], iter([wrong])):
        with pytest.raises(error, match=says) as raised:
            list(fer(images, timeout=2))
        said = str(raised.value)
        assert len(said) < 300 and said.isprintable() and "x" * 81 not in said


def test_postscript_and_pipes_are_no_images_and_start_nothing(fer, face, tmp_path, monkeypatch):
    started = ghostscript(tmp_path, monkeypatch)
    (tmp_path / "face.jpg").write_bytes(EPS)
    cell = {"bytes": EPS, "path": "face.jpg"}
    rows = datasets.Dataset.from_dict({"image": [cell]}, features=datasets.Features({"image": datasets.Image()}))
    stream = rows.to_iterable_dataset()
    every = [str(tmp_path / "face.jpg"), cell, rows, rows["image"], rows.with_format("torch"), stream, stream["image"]]
    for image in [*every, Image.open(tmp_path / "face.jpg")]:
        with pytest.raises(ValueError, match="is not a readable image|made of pixels, not EPS"):
            list(fer(image))
    assert not started.exists()
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe.jpg is not a readable image \(no regular file\)"):
        fer(str(tmp_path / "pipe.jpg"))


def test_unreadable_file_is_named(fer, tmp_path):
    for name, content in [("empty.jpg", b""), ("text.png", b"not an image"), ("cut.jpg", None)]:
        file = tmp_path / name
        if content is None:
            Image.fromarray(astronaut()).save(file)
            content = file.read_bytes()[:5000]
        file.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            fer(str(file))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_one_broken_image_costs_no_other_its_answer(fer, face, tmp_path, runtime, batch_size):
    if runtime == "onnx":
        fer = OnnxPipeline(BUNDLED_ONNX, faces="crop")
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [face, face, str(tmp_path / "broken.png"), face, tmp_path / "gone.png"]
    with pytest.warns(UserWarning) as warned:
        answers = fer(given, batch_size=batch_size, on_error="skip")
    label = fer(face)["label"]
    assert [answer and answer["label"] for answer in answers] == [label, label, None, label, None]
    said = [str(warning.message) for warning in warned if "is skipped" in str(warning.message)]
    assert "broken.png is not a readable image" in said[0] and "(image 2 of those given, from 0)" in said[0]
    assert "gone.png" in said[1] and "(image 4 of" in said[1] and len(said) == 2
    stream = fer((image for image in given), batch_size=batch_size)
    assert next(stream)["label"] == next(stream)["label"] == label  # those before it are not lost
    with pytest.raises(ImageError, match=r"broken\.png.*image 2 of"):
        next(stream)
    with pytest.raises(ImageError, match="image 2 of"):
        fer(given, batch_size=batch_size)
    with pytest.raises(ImageError, match=r"leave it out\.$"):  # alone, it needs no number
        fer(given[2])
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        fer(face, on_error="ignore")


def test_base64_and_data_uris(fer, face):
    content = io.BytesIO()
    face.save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    for given in (text, f"data:image/png;base64,{text}"):
        assert fer(given)["soft_label"] == fer(face)["soft_label"]
    with pytest.raises(ImageError, match="no data URI") as error:
        fer("data:image/png;base64,%" + text)
    assert len(str(error.value)) < 200
    with pytest.raises(FileNotFoundError) as missing:
        fer("/nowhere/" + "x" * 5000)
    assert len(str(missing.value)) < 300


def test_an_address_that_gives_nothing_is_one_sentence(fer):
    for url in ("http://127.0.0.1:9/face.png", f"http://{'x' * 70}.example/face.png", "http://[/face.png"):
        with pytest.raises(ImageError, match=r"cannot be fetched \(\w+\): see whether") as error:
            fer(url, timeout=2)
        assert len(str(error.value)) < 200
