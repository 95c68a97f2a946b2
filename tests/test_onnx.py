"""Models as ONNX files: written by a command, run by ONNX Runtime, with the same answers as PyTorch's."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from datasets import Dataset, Features, Image
from small_models import KINDS, model_of
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX, OnnxNetwork, OnnxPipeline
from affectnet_plus_cli import main

PERSON = skimage.data.astronaut()[:240, 60:380]
SETTINGS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "framing": {"margin": 0.3, "aligned": True}}
WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "transformers"]))  # each import fails
from affectnet_plus_cli import main
main(sys.argv[1:])
"""


def command(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return end.value.code or 0


def without_torch(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], capture_output=True, text=True)


def alike(answer: dict, other: dict) -> None:
    assert answer.keys() == other.keys()
    for name, value in answer.items():
        if isinstance(value, (dict, float)):
            assert value == pytest.approx(other[name], abs=1e-4)
        else:
            assert value == other[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Soft-FER network with valence and arousal, its ONNX file, and that of eight bits."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    settings = {"activation": "softmax", "valence_arousal": True, "tta": True, **SETTINGS}
    model_of("soft_fer", "test_vit", **settings).save_pretrained(folder / "model")
    assert command("export-onnx", folder / "model", folder / "model.onnx") == 0
    assert command("export-onnx", folder / "model", folder / "int8.onnx", "--int8") == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_gives_the_same_scores_in_batches_of_any_size(kind, tmp_path, capsys):
    torch.manual_seed(0)
    model_of(kind, "test_resnet", id2label={0: "happy", 1: "sad"}).save_pretrained(tmp_path / "model")
    assert command("export-onnx", tmp_path / "model", tmp_path / "model.onnx") == 0
    assert "model.onnx" in capsys.readouterr().out
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    network = OnnxNetwork(tmp_path / "model.onnx", "cpu")
    assert network.config.expressions == ["happy", "sad"]
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model(images).logits.sigmoid()
        logits = torch.from_numpy(network(images.numpy())["logits"])
        torch.testing.assert_close(logits.sigmoid(), expected, atol=1e-4, rtol=0)


def test_three_ways_give_one_answer(exported):
    by_torch = pipeline("soft-fer", model=str(exported / "model"))
    of_transformers = pipeline("soft-fer", model=str(exported / "model.onnx"))
    ours = OnnxPipeline(exported / "model.onnx")
    (expected,) = by_torch(PERSON)
    assert {"valence", "arousal", "box", "landmarks"} < expected.keys()
    for fer in (of_transformers, ours):
        (answer,) = fer(PERSON)
        alike(answer, expected)
        alike(fer(PERSON, faces="crop", threshold=0.1, top_k=2), by_torch(PERSON, faces="crop", threshold=0.1, top_k=2))
        assert fer(np.zeros((64, 64, 3), np.uint8)) == []


def test_the_bundled_file_is_the_bundled_model():
    fer = pipeline("soft-fer", model=str(BUNDLED_MODEL), faces="crop")
    ours = OnnxPipeline(BUNDLED_ONNX, faces="crop")
    for picture in (PERSON, PERSON[:, ::-1], skimage.data.chelsea()):
        alike(ours(picture), fer(picture))


def test_the_file_says_what_the_model_says_and_nothing_of_this_machine(exported):
    said = {entry.key: json.loads(entry.value) for entry in onnx.load(exported / "model.onnx").metadata_props}
    assert said == SETTINGS | {"expressions": list(EXPRESSIONS), "image_size": 32}
    assert str(exported).encode() not in (content := (exported / "model.onnx").read_bytes())
    assert b"site-packages" not in content and b"modeling" not in content


def test_eight_bits_are_a_smaller_file_with_nearly_the_same_scores(exported):
    whole, small = exported / "model.onnx", exported / "int8.onnx"
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    expected = OnnxPipeline(whole, faces="crop")(PERSON)["distribution"]
    scores = OnnxPipeline(small, faces="crop")(PERSON)["distribution"]
    assert scores == pytest.approx(expected, abs=0.03) and scores != pytest.approx(expected, abs=1e-7)


def test_what_can_be_given_to_it():
    """As to transformers' pipelines: one for one, a list for a list, an iterator for a stream or a dataset."""
    fer = OnnxPipeline(BUNDLED_ONNX, faces="crop")
    expected = fer(PERSON)
    for answers in (fer([PERSON, PERSON]), fer(picture for picture in [PERSON, PERSON])):
        answers = list(answers)
        assert len(answers) == 2
        alike(answers[0], expected)
    rows = Dataset.from_dict({"image": [PERSON, PERSON]}, features=Features({"image": Image()}))
    for given in (rows, rows["image"], rows.to_iterable_dataset()):
        answers = list(fer(given))
        assert len(answers) == 2
        alike(answers[1], expected)
    alike(fer({"image": PERSON}), expected)
    alike(fer(skimage.data.data_dir + "/astronaut.png"), fer(skimage.data.astronaut()))


def test_predict_without_pytorch(exported, tmp_path):
    shutil.copy(skimage.data.data_dir + "/astronaut.png", tmp_path / "astronaut.png")
    assert command("predict", tmp_path / "astronaut.png", "--output", tmp_path / "torch.jsonl") == 0
    done = without_torch("predict", tmp_path / "astronaut.png", "--output", tmp_path / "onnx.jsonl")
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows = [json.loads((tmp_path / name).read_text()) for name in ("torch.jsonl", "onnx.jsonl")]
    alike(*rows)
    refused = without_torch(
        "predict", tmp_path / "astronaut.png", "--output", tmp_path / "no.csv", "--model", exported / "model"
    )
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert 'pip install "affectnet-plus[torch]"' in refused.stderr and "export-onnx" in refused.stderr
    again = without_torch(
        "predict", tmp_path / "astronaut.png", "--output", tmp_path / "yes.csv", "--model", exported / "model.onnx"
    )
    assert again.returncode == 0 and (tmp_path / "yes.csv").exists()


def test_who_has_pytorch_but_not_timm_has_what_runs_onnx_files(tmp_path):
    shutil.copy(skimage.data.data_dir + "/astronaut.png", tmp_path / "astronaut.png")
    script = WITHOUT_TORCH.replace('["torch", "torchvision", "timm", "transformers"]', '["timm"]')
    script = script.replace("main(sys", "import transformers.pipelines\nmain(sys")  # its hook asks for no timm, either
    words = ["predict", tmp_path / "astronaut.png", "--output", tmp_path / "rows.csv"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "happy" in (tmp_path / "rows.csv").read_text()


def test_what_is_no_file_of_ours(exported, tmp_path):
    broken, foreign = tmp_path / "broken.onnx", tmp_path / "foreign.onnx"
    broken.write_bytes(b"no model")
    other = onnx.load(exported / "model.onnx")
    del other.metadata_props[:]
    onnx.save(other, foreign)
    with pytest.raises(ValueError, match=r"broken\.onnx is no ONNX file"):
        OnnxPipeline(broken)
    for load in (OnnxPipeline, lambda file: pipeline("soft-fer", model=str(file))):
        with pytest.raises(ValueError, match=r"foreign\.onnx does not say its 'expressions'.*export-onnx"):
            load(foreign)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'gone\.onnx'"):
        OnnxPipeline("gone.onnx")
    for device, reason in (("cuda:3", "no CUDA here"), ("mps", '"cpu" or "cuda:N"')):
        with pytest.raises(ValueError, match=reason):
            OnnxPipeline(BUNDLED_ONNX, device)


def test_what_cannot_be_exported(exported, tmp_path, capsys):
    def refused(*words) -> str:
        assert command("export-onnx", *words) == 2
        return capsys.readouterr().err

    foreign = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    foreign.save_pretrained(tmp_path / "foreign")
    assert "does not end in .onnx" in refused(exported / "model", tmp_path / "model.pt")
    assert "is there already" in refused(exported / "model", exported / "model.onnx")
    assert "no folder with a model" in refused(tmp_path / "nowhere", tmp_path / "model.onnx")
    assert "none of our models" in refused(tmp_path / "foreign", tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]
