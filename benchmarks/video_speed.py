#!/usr/bin/env python
"""How fast are faces in video, beside the network alone on ready crops and beside `fer`; and does memory stay flat?

    python benchmarks/video_speed.py --photographs DEMO

A short video is made of one of the photographs of npm's @vladmandic/face-api (DEMO: its folder `demo`), panning. Runs
are interleaved; figures are ratios in one run. The peer, `fer` (FER().detect_emotions, its own detector), is left out
where it is not installed: pip install tensorflow-cpu && pip install --no-deps fer==25.10.3
"""

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from PIL import Image
from record import RESULTS, write_result
from transformers import pipeline

from affectnet_plus.inference import predict_video
from affectnet_plus.inference.video import read_frames
from affectnet_plus.modeling import BUNDLED_MODEL, BUNDLED_ONNX, OnnxPipeline, crop_face

RATE = 25  # frames a second
ROUNDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, help="folder with sample5.jpg")
    parser.add_argument("--minutes", type=float, default=60, help="of video, for the memory; 0 leaves it out")
    parser.add_argument("--frames", type=int, default=100, help="of the short video")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    by = {"torch": pipeline("soft-fer", model=str(BUNDLED_MODEL), device="cpu")}
    by["onnx"] = OnnxPipeline(BUNDLED_ONNX, "cpu")
    peer = None
    if importlib.util.find_spec("fer"):
        from fer.fer import FER

        peer = FER()
    photograph = Image.open(args.photographs / "sample5.jpg").convert("RGB")
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, photograph, args.frames)
        crops = [
            crop_face(Image.fromarray(frame.image), face, **by["torch"].framing)
            for frame, found in zip(read_frames(clip), predict_video(clip, by["torch"]), strict=True)
            for face in found["faces"]
        ]
        ours: dict = {name: [] for name in by}
        network: dict = {name: [] for name in by}
        theirs = []
        for _ in range(ROUNDS):
            for name, fer in by.items():
                start = time.perf_counter()
                faces = sum(len(frame["faces"]) for frame in predict_video(clip, fer))
                ours[name].append(faces / (time.perf_counter() - start))
                start = time.perf_counter()
                fer(crops, faces="crop", batch_size=32)
                network[name].append(len(crops) / (time.perf_counter() - start))
            if peer:
                some = list(itertools.islice(read_frames(clip), max(1, args.frames // 10)))
                start = time.perf_counter()
                found = sum(len(peer.detect_emotions(frame.image[:, :, ::-1])) for frame in some)
                theirs.append({"faces": found / len(some), "frames": len(some) / (time.perf_counter() - start)})
        result = {
            "frames": args.frames,
            "faces_a_frame": round(faces / args.frames, 2),
            "threads": args.threads,
            "to_the_network_alone": {name: ratios(ours[name], network[name]) for name in by},
        }
        if peer:
            result["fer"] = {
                "faces_a_frame": round(float(np.mean([one["faces"] for one in theirs])), 2),
                "times_as_fast": {
                    name: ratios([o / faces * args.frames for o in of], [one["frames"] for one in theirs])
                    for name, of in ours.items()
                },
            }
        print(json.dumps(result, indent=1), flush=True)
        if args.minutes:
            with multiprocessing.get_context("spawn").Pool(1) as fresh:  # without what was loaded for the above
                result["memory"] = fresh.apply(memory, (Path(folder), photograph, args.minutes, args.frames))
    if args.minutes:
        write_result(RESULTS / "video_speed.json", result)
        print(json.dumps(result, indent=1))


def write_clip(file: Path, photograph: Image.Image, frames: int, width: int = 1280) -> None:
    """The photograph, panning; 5 % narrower than `width`."""
    photograph = photograph.resize((width, round(width * photograph.height / photograph.width)))
    seen, wide, high = width // 20, width * 19 // 20, width * 9 // 32 * 2
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = wide, high, "yuv420p", 4_000_000
        for number in range(frames):
            by = abs((2 * number) % (2 * seen) - seen)
            picture = np.asarray(photograph.crop((by, by, by + wide, by + high)))
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def ratios(ours: list[float], theirs: list[float]) -> dict:
    of_round = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"median": round(float(np.median(of_round)), 3), "lowest": round(min(of_round), 3)}


def memory(folder: Path, photograph: Image.Image, minutes: float, frames: int) -> dict:
    """Most resident megabytes in each tenth of a film of so many minutes: a small clip, again and again."""
    clip, film = folder / "small.mp4", folder / "film.mp4"
    write_clip(clip, photograph, frames, width=640)
    total = repeat(clip, film, max(1, round(minutes * 60 * RATE / frames)), frames)
    most, now, faces, process = [], 0, 0, psutil.Process()
    for number, frame in enumerate(predict_video(film, OnnxPipeline(BUNDLED_ONNX)), start=1):
        faces += len(frame["faces"])
        if number % 25 == 0:
            now = max(now, round(process.memory_info().rss / 1e6))
        if number % (total // 10) == 0:
            most.append(now)
            print(f"{number:,} of {total:,} frames, {faces:,} faces, {now} MB at most", flush=True)
            now = 0
    assert number == total, f"{number} frames of {total}"
    return {
        "minutes": round(total / RATE / 60, 1),
        "frames": total,
        "faces": faces,
        "peak_mb_by_tenth": most,
        "growth": round(max(most) / most[0] - 1, 3),
    }


def repeat(clip: Path, film: Path, times: int, frames: int) -> int:
    """Write a clip so many times, one after the other, without coding it anew; gives the number of frames."""
    with av.open(str(film), "w") as written:
        stream = None
        for turn in range(times):
            with av.open(str(clip)) as read:
                template = read.streams.video[0]
                stream = stream or written.add_stream_from_template(template)
                for packet in read.demux(template):
                    if packet.dts is None:
                        continue
                    shift = round(turn * frames / RATE / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    written.mux(packet)
    return times * frames


if __name__ == "__main__":
    main()
