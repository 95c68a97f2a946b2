#!/usr/bin/env python
"""How much of the bare model's speed has `pipeline("soft-fer")`, decoding included?

    python benchmarks/pipeline_speed.py

The bundled model on drawn faces, JPEGs of 112 pixels that are crops already, by one thread: files through the pipeline
one at a time and 32 at a time, and the model alone on ready tensors of the same batch size. They take turns; figures
are ratios in one run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import RESULTS, write_result
from transformers import pipeline

from affectnet_plus.modeling import BUNDLED_MODEL
from affectnet_plus.synthetic import synthesize

ROUNDS, FACES = 15, 96


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    fer = pipeline("soft-fer", model=str(BUNDLED_MODEL), faces="crop")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "release", train=0, validation=FACES, image_size=112)
        files = sorted(map(str, Path(folder).rglob("validation_set/images/*.jpg")))[:FACES]
        side = fer.model.config.image_size
        for batch in (1, 32):
            ready = [torch.randn(batch, 3, side, side) for _ in range(len(files) // batch)]
            found[batch] = in_turns(lambda b=batch: list(fer(iter(files), batch_size=b)), lambda r=ready: bare(fer, r))
            print(batch, json.dumps(found[batch]), flush=True)
    write_result(RESULTS / "pipeline_speed.json", {"faces": FACES, "threads": 1, "to_the_bare_model": found})


def in_turns(first: Callable, second: Callable) -> dict[str, float]:
    """How many times as fast the first is as the second."""
    ratios = []
    for _ in range(ROUNDS):
        of_first, of_second = seconds(first), seconds(second)
        ratios.append(of_second / of_first)
    return {"median": round(statistics.median(ratios[1:]), 3), "lowest": round(min(ratios[1:]), 3)}


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def bare(fer, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        fer.model(batch)


if __name__ == "__main__":
    main()
