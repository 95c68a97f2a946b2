"""Several processes that run one script: what one of them decides or prepares, the others are told or wait for."""

import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from affectnet_plus.training.faces import Split, create_caches, open_cache

_PATIENCE = timedelta(days=7)  # of processes that wait for what one prepares for all


def create_accelerator(args, fold_args) -> Accelerator:
    gc.freeze()  # what is imported stays: `free_memory` need not look through it after each network
    if fold_args.fold_per_rank:
        if args.cache_images == "memory":
            raise ValueError(
                "--fold_per_rank: processes with folds of their own share no memory. Take --cache_images disk, whose "
                "files they share."
            )
        _leave_the_other_ranks(fold_args)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)  # cuDNN's are those, too, then
        torch.backends.cudnn.benchmark = False  # which would choose among them by their speed
    accelerator = Accelerator(
        cpu=args.use_cpu,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=args.output_dir,
    )
    if args.report_to and not accelerator.log_with:
        raise ValueError(f"--report_to {args.report_to} is not installed here: pip install {args.report_to}")
    return accelerator


@contextmanager
def main_process_prepares(accelerator: Accelerator):
    """The main process goes first, e.g. to fill the cache that the others will find, and may take days; all go on
    together. Everywhere else a process that waits for long waits for one that hangs: usual timeouts hold there."""
    if not dist.is_initialized():
        with accelerator.main_process_first():
            yield
        return
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        if not accelerator.is_main_process:
            dist.barrier(patient)
        yield
    finally:  # what stops the main process, the others see as well
        if accelerator.is_main_process:
            dist.barrier(patient)
    dist.barrier(patient)
    dist.destroy_process_group(patient)


def share_contents(accelerator: Accelerator, splits: Sequence[Split]) -> None:
    """Let the main process hash the images of these splits, and tell the other processes."""
    unread = list({id(split): split for split in splits if split.folds_by is None}.values())
    if not unread:
        return
    with main_process_prepares(accelerator):
        if accelerator.is_main_process:
            for split in unread:
                split.read_contents()
    read = broadcast_object_list([(split.contents, split.folds_by) for split in unread])
    for split, (contents, folds_by) in zip(unread, read, strict=True):
        split.contents, split.folds_by = contents, folds_by


def cache_faces(accelerator: Accelerator, splits: Sequence[Split], image_size: int, where: str) -> None:
    """Let these splits decode each face once, at the size of a network's input, and keep it in "memory" or on "disk",
    shared by all processes of a machine; "no": not at all. `ValueError` where there is no room."""
    splits, size = [split for split in splits if len(split)], (image_size, image_size)
    if where == "no" or not splits:
        return
    caches, told = [], None
    with main_process_prepares(accelerator):
        if accelerator.is_local_main_process:
            try:
                caches = create_caches(splits, size, where)
                told = [(cache.path, size, cache.states) for cache in caches]
            except (ValueError, OSError) as error:
                told = error
    machine = socket.gethostname()
    of_machines = [(name, answer) for name, answer in gather_object([(machine, told)]) if answer is not None]
    for _, answer in of_machines:
        if isinstance(answer, Exception):
            raise answer
    for split, to_open in zip(splits, dict(of_machines)[machine], strict=True):
        split.cache = open_cache(*to_open)
    accelerator.wait_for_everyone()  # until then `caches` are open


def as_main_process(accelerator: Accelerator, decide: Callable):
    """What `decide` gives on the main process, or the error that it raises there, on all of them."""
    answer = None
    if accelerator.is_main_process:
        try:
            answer = decide()
        except (ValueError, OSError) as error:
            answer = error
    (answer,) = broadcast_object_list([answer])
    if isinstance(answer, Exception):
        raise answer
    return answer


def _leave_the_other_ranks(fold_args) -> None:
    """Go on as a run of one process with its own folds: the rank's, every so many."""
    rank, world, local = (
        int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    fold_args.folds = fold_args.folds[rank::world]
    if not fold_args.folds:
        tqdm.write(f"Process {rank} has no fold left to train: {world} processes for fewer folds.", file=sys.stderr)
        sys.exit(0)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[local] if local < len(devices) and devices[local] else str(local)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
