#!/usr/bin/env python
"""How much faster is one Soft-FER network than the fused experts that taught it? Full-size backbones with random
weights (speed does not depend on them), 224 px, on the CPU, in turn in one process.

    python benchmarks/student_against_teacher.py
"""

import argparse
import json
import time

import numpy as np
import torch
from record import RESULTS, write_result
from tqdm import tqdm

from affectnet_plus.modeling import (
    AUConfig,
    EBCConfig,
    FusedConfig,
    FusedForImageClassification,
    SoftFerConfig,
    SoftFerForImageClassification,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--student", default=SoftFerConfig().backbone, help="timm name")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many is reported")
    args = parser.parse_args()
    networks = {
        "teacher": FusedForImageClassification(FusedConfig(ebc=EBCConfig(), au=AUConfig())).eval(),
        "student": SoftFerForImageClassification(SoftFerConfig(backbone=args.student)).eval(),
    }
    faces = torch.randn(args.batch_size, 3, 224, 224)
    seconds = {name: [] for name in networks}
    with torch.no_grad():
        for round_number in tqdm(range(-1, args.rounds)):  # one to warm up
            for name, network in networks.items():
                start = time.perf_counter()
                network(faces)
                if round_number >= 0:
                    seconds[name].append(time.perf_counter() - start)
    result = {
        name: {
            "million_parameters": round(sum(weights.numel() for weights in network.parameters()) / 1e6, 1),
            "ms_a_face": round(1000 * float(np.median(seconds[name])) / args.batch_size, 1),
        }
        for name, network in networks.items()
    }
    ratios = np.divide(seconds["teacher"], seconds["student"])
    result["times_as_fast"] = {"median": round(float(np.median(ratios)), 1), "from": round(ratios.min(), 1)}
    result["student"]["backbone"] = args.student
    result |= {"image_size": faces.shape[-1], "batch_size": args.batch_size, "threads": torch.get_num_threads()}
    write_result(RESULTS / "student_against_teacher.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
