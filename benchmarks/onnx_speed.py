#!/usr/bin/env python
"""How much faster is ONNX Runtime than PyTorch, and what do weights of eight bits cost?

    python benchmarks/onnx_speed.py --dataset_name FERPLUS
    python benchmarks/onnx_speed.py --dataset_name FERPLUS --model runs/soft_fer

Networks alone, on prepared faces, one at a time and 32 at a time, in turns; figures are ratios in one run. Accuracy and
Jensen-Shannon divergence are those of the data's validation faces.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from record import RESULTS, write_result
from tqdm import tqdm
from transformers import pipeline

from affectnet_plus.inference.export_onnx import export_onnx
from affectnet_plus.modeling import BUNDLED_MODEL, OnnxPipeline
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import Split, load_split
from affectnet_plus.training.metrics.evaluation import measure

ROUNDS = 15
FACES = {1: 40, 32: 4}  # batch: how many of them a round


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset_name", required=True, help="with validation, `label` and `soft_label`")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="a folder; by default the bundled model")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    split = load_split(DataArguments(dataset_name=args.dataset_name), "validation", with_soft_labels=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {"float32": Path(folder) / "model.onnx", "int8": Path(folder) / "int8.onnx"}
        export_onnx(str(args.model), str(files["float32"]))
        export_onnx(str(args.model), str(files["int8"]), int8=True)
        by_torch = pipeline("soft-fer", model=str(args.model), faces="crop", device="cpu")
        runtimes = {name: OnnxPipeline(file, "cpu", faces="crop") for name, file in files.items()}
        result = {
            "model": args.model.name,
            "image_size": by_torch.model.config.image_size,
            "threads": args.threads,
            "rounds": ROUNDS,
            "rows": len(split),
            "torch": of_scores(by_torch, split),
        }
        for name, fer in runtimes.items():
            result[name] = {
                "megabytes": round(files[name].stat().st_size / 1e6, 2),
                "times_as_fast": {str(batch): ratio(by_torch, fer, batch) for batch in FACES},
                **of_scores(fer, split),
            }
    if args.model == BUNDLED_MODEL:
        write_result(RESULTS / "onnx_speed.json", result)
    print(json.dumps(result, indent=1))


def ratio(by_torch, fer, batch: int) -> dict:
    size = fer.model.config.image_size
    pixel_values = np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
    times: dict = {by_torch: [], fer: []}
    for of in times:
        of.run_network(pixel_values)
    for _ in range(ROUNDS):
        for of, taken in times.items():
            start = time.perf_counter()
            for _ in range(FACES[batch]):
                of.run_network(pixel_values)
            taken.append(time.perf_counter() - start)
    ratios = np.array(times[by_torch]) / times[fer]
    return {"median": round(float(np.median(ratios)), 2), "lowest": round(float(ratios.min()), 2)}


def of_scores(fer, split: Split) -> dict:
    faces = (split.image(row) for row in tqdm(range(len(split)), unit="face", disable=None))
    scores = np.array([list(answer["soft_label"].values()) for answer in fer(faces, batch_size=64)])
    figures = measure(scores, np.empty((len(scores), 0)), split, split.soft_labels)
    return {name: round(figures[name], 4) for name in ("accuracy", "js_divergence")}


if __name__ == "__main__":
    main()
