"""How long a release takes to load: the first time, and from the cache in a new process.

    python benchmarks/reload.py --pairs 50000

Writes a release of so many pairs into a temporary folder (one small image under many names, annotations of the
released size and types, all different), then loads it in fresh processes bound to one core. The files have just
been written, so they are read from memory: what is measured is the work, not the disk.
"""

import argparse
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import PIL.Image

LINKS_PER_FILE = 10_000  # file systems allow some 65,000


def annotation(rng: random.Random) -> dict:
    def scores(names):
        return {name: rng.randrange(100) / 100 for name in names}

    label = rng.randrange(8)
    soft_label = [rng.randrange(570, 7180) / 10_000 for _ in range(8)]
    rank = sorted(soft_label, reverse=True).index(soft_label[label])
    return {
        "human-label": label,
        "soft-label": soft_label,
        "subset": (0, 1, 1, 2, 2, 2, 2, 2)[rank],
        "meta-data": {
            "age": rng.randrange(90),
            "valence": rng.uniform(-1, 1),
            "arousal": rng.uniform(-1, 1),
            "gender": scores(("female", "male")),
            "race": scores(("asian", "indian", "black", "white", "middle eastern", "latino hispanic")),
            "pose": scores(("yaw", "pitch", "roll")),
            "landmark-68": [rng.randrange(228) for _ in range(136)],
            "landmark-29": [rng.randrange(228) for _ in range(58)],
        },
    }


def write_release(root: pathlib.Path, pairs: int) -> None:
    images, annotations = (root / "human_annotated/train_set" / part for part in ("images", "annotations"))
    images.mkdir(parents=True)
    annotations.mkdir()
    jpeg = io.BytesIO()
    PIL.Image.effect_noise((224, 224), 30).convert("RGB").save(jpeg, "JPEG")
    rng = random.Random(0)
    for n in range(pairs):
        if n % LINKS_PER_FILE == 0:
            original = images / f"{n}.jpg"
            original.write_bytes(jpeg.getvalue())
        else:
            os.link(original, images / f"{n}.jpg")
        (annotations / f"{n}.json").write_text(json.dumps(annotation(rng)))


def load(root: str) -> None:
    """In a process of its own: prints the seconds of the imports and of loading, and the peak memory in MB."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = time.perf_counter()
    import resource

    import datasets

    import affectnet_plus  # noqa: F401

    datasets.disable_progress_bars()
    imported = time.perf_counter()
    dataset = datasets.load_dataset("affectnet_plus", data_dir=root, split="train")
    loaded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([len(dataset), imported - start, loaded - imported, peak]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="N", type=int, default=50_000)
    parser.add_argument("--load", metavar="ROOT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        return load(args.load)

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "AffectNet+")
        start = time.perf_counter()
        write_release(root, args.pairs)
        print(f"{args.pairs:,} pairs written in {time.perf_counter() - start:.1f} s", flush=True)
        here = pathlib.Path(__file__).resolve()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(pathlib.Path(folder, "cache"))}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here.parents[1]), os.environ.get("PYTHONPATH"))))
        for what in ("first index", "cached reload", "cached reload"):
            command = [sys.executable, here, "--load", root]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            rows, imports, seconds, peak = json.loads(done.stdout)
            print(
                f"{what:14} {seconds:7.3f} s = {rows / seconds:12,.0f} annotations/s on one core; "
                f"{imports + seconds:7.3f} s with the imports; peak memory {peak:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
