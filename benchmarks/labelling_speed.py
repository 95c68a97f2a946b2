#!/usr/bin/env python
"""How fast does the full-size EBC label faces, beside its bare forward passes and 24 stock pipelines of its networks?

    python benchmarks/labelling_speed.py

The networks have the paper's architectures and random weights; faces are drawn, JPEGs of 224 pixels. `label.py`'s own
loader and model, the same model on tensors in memory, and one `image-classification` pipeline of transformers for each
of the 24 networks, one after the other, take turns on the same faces in batches of the same size; figures are ratios in
one run. What they give is compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from record import RESULTS, write_result
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, pipeline

from affectnet_plus.modeling import EBCConfig, EBCForImageClassification
from affectnet_plus.synthetic import synthesize
from affectnet_plus.training.arguments import DataArguments
from affectnet_plus.training.faces import load_split
from affectnet_plus.training.label import batches_of
from affectnet_plus.training.loop.predict import joined, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = EBCForImageClassification(EBCConfig()).eval()
    accelerator = Accelerator(cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "release", train=0, validation=4 * args.faces, image_size=224)
        split = load_split(DataArguments(data_dir=str(Path(folder) / "release")), "validation")
        split = split.select(np.arange(args.faces))
        images = [split.image(row) for row in range(args.faces)]
        settings = SimpleNamespace(per_device_batch_size=args.batch, dataloader_num_workers=2)
        shards = [("", split, np.arange(args.faces), [None])]

        def labelled() -> np.ndarray:
            batches = batches_of(accelerator, settings, shards, model.image_processor)
            found = [outputs_of(accelerator, model, batch["pixel_values"], own_rows=True) for batch in batches]
            return joined(found)["classifier_logits"]  # (faces, expressions, backbones)

        ready = [batch["pixel_values"] for batch in batches_of(accelerator, settings, shards, model.image_processor)]
        stock = pipelines_of(model)
        ways = {
            "label.py": labelled,
            "bare": lambda: np.concatenate(list(map(forward(model), ready))),
            "stock pipelines": lambda: np.stack([of_pipeline(fer, images, args.batch) for fer in stock], axis=1),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                logits = run().reshape(args.faces, -1)
                took[way].append(time.perf_counter() - start)
                print(f"{way:16} {args.faces / took[way][-1]:.3f} faces a second", flush=True)
                if way == "label.py":
                    ours = logits
                furthest = float(np.abs(logits - ours).max())
                assert furthest < 1e-3, f"{way} gives something else ({furthest})"
    rates = {way: args.faces / statistics.median(seconds) for way, seconds in took.items()}
    ratios = {f"label.py / {way}": rates["label.py"] / rates[way] for way in ("bare", "stock pipelines")}
    print(json.dumps(ratios | {"largest difference in log-odds": furthest}, indent=1))
    result = {"faces": args.faces, "batch": args.batch, "networks": len(stock), "faces a second": rates}
    write_result(RESULTS / "labelling_speed.json", result | {"ratios": ratios, "largest_difference": furthest})


def forward(model):
    @torch.no_grad()
    def run(faces: torch.Tensor) -> np.ndarray:
        return model(faces).classifier_logits.numpy()

    return run


def pipelines_of(model) -> list:
    """A stock pipeline for each network of an EBC, in the order of its outputs."""
    found = []
    for ensemble in model.experts.values():
        for name, network in zip(model.config.backbones, ensemble.classifiers, strict=True):
            config = TimmWrapperConfig(architecture=name, num_labels=1, do_pooling=True)
            wrapper = TimmWrapperForImageClassification(config)
            wrapper.timm_model.load_state_dict(network.state_dict())
            made = pipeline("image-classification", model=wrapper.eval(), image_processor=model.image_processor)
            found.append(made)
    return found


def of_pipeline(fer, images: list, batch: int) -> np.ndarray:
    """(faces,) log-odds."""
    answers = fer(images, batch_size=batch, function_to_apply="none", top_k=1)
    return np.array([answer[0]["score"] for answer in answers])


if __name__ == "__main__":
    main()
