#!/usr/bin/env python
"""How fast are faces in video, beside the network alone on ready crops and beside `fer`; and does memory stay flat?

    python benchmarks/video_speed.py --photographs DEMO

A short video is made of one of the photographs of npm's @vladmandic/face-api (DEMO: its folder `demo`), panning, and
shown again and again. Runs are interleaved; figures are ratios in one run. The peer, `fer` (FER().detect_emotions, its
own detector), is left out where it is not installed.
"""

import argparse
import importlib.util
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from record import RESULTS, write_result
from transformers import pipeline

from affectnet_plus.inference import predict_video
from affectnet_plus.inference.video import read_frames
from affectnet_plus.modeling import BUNDLED_MODEL, crop_face

RATE = 25  # frames a second
ROUNDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, help="folder with sample5.jpg")
    parser.add_argument("--minutes", type=float, default=60, help="of video, for the memory")
    parser.add_argument("--frames", type=int, default=100, help="of the short video")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fer = pipeline("soft-fer", model=str(BUNDLED_MODEL))
    peer = None
    if importlib.util.find_spec("fer"):
        from fer.fer import FER

        peer = FER()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, Image.open(args.photographs / "sample5.jpg").convert("RGB"), args.frames)
        crops = [
            crop_face(Image.fromarray(frame.image), face, **fer.framing)
            for frame, found in zip(read_frames(clip), predict_video(clip, fer), strict=True)
            for face in found["faces"]
        ]
        ours, network, theirs = [], [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            faces = sum(len(frame["faces"]) for frame in predict_video(clip, fer))
            ours.append(faces / (time.perf_counter() - start))
            start = time.perf_counter()
            fer(crops, faces="crop", batch_size=32)
            network.append(len(crops) / (time.perf_counter() - start))
            if peer:
                some = list(itertools.islice(read_frames(clip), max(1, args.frames // 10)))
                start = time.perf_counter()
                found = sum(len(peer.detect_emotions(frame.image[:, :, ::-1])) for frame in some)
                theirs.append({"faces": found / len(some), "frames": len(some) / (time.perf_counter() - start)})
        result = {
            "frames": args.frames,
            "faces_a_frame": round(faces / args.frames, 2),
            "threads": args.threads,
            "to_the_network_alone": ratios(ours, network),
        }
        if peer:
            result["fer"] = {
                "faces_a_frame": round(float(np.mean([one["faces"] for one in theirs])), 2),
                "times_as_fast": ratios([o / faces * args.frames for o in ours], [one["frames"] for one in theirs]),
            }
        result["memory"] = memory(clip, fer, args)
    write_result(RESULTS / "video_speed.json", result)
    print(json.dumps(result, indent=1))


def write_clip(file: Path, photograph: Image.Image, frames: int) -> None:
    photograph = photograph.resize((1280, round(1280 * photograph.height / photograph.width)))
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 1216, 720, "yuv420p", 4_000_000
        for number in range(frames):
            by = abs((2 * number) % 120 - 60)
            picture = np.asarray(photograph.crop((by, by, by + 1216, by + 720)))
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def ratios(ours: list[float], theirs: list[float]) -> dict:
    of_round = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"median": round(float(np.median(of_round)), 3), "lowest": round(min(of_round), 3)}


def memory(clip: Path, fer, args) -> dict:
    """Most resident megabytes after each tenth of so many minutes of frames, which come from the clip again and again.
    The network sees them all; so that an hour does not take hours, it is shown small crops of few faces."""
    total = int(args.minutes * 60 * RATE)
    pictures = [frame.image[::2, ::2] for frame in itertools.islice(read_frames(clip), 25)]
    frames = (pictures[number % len(pictures)] for number in range(total))
    most, faces = [], 0
    for number, frame in enumerate(predict_video(frames, fer, every=25), start=1):
        faces += len(frame["faces"])
        if number % max(1, total // 10) == 0:
            most.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            print(f"{number:,} of {total:,} frames, {faces:,} faces, {most[-1]} MB at most", flush=True)
    return {"frames": total, "faces": faces, "peak_mb_by_tenth": most, "growth": round(most[-1] / most[0] - 1, 3)}


if __name__ == "__main__":
    main()
