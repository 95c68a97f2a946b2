"""Several processes that run one script: what one of them decides or prepares, the others are told or wait for."""

import gc
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast_object_list, gather_object, patch_environment

from affectnet_plus.training.faces import Split, create_caches, open_cache
from affectnet_plus.training.loop.jobs import Share

_PATIENCE = timedelta(days=7)  # of processes that wait for what one prepares for all


def create_accelerator(args, share: Share | None = None) -> Accelerator:
    """As OptimizationArguments say; with a `share`, for a process that works by itself."""
    gc.freeze()  # what is imported stays: `free_memory` need not look through it after each network
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)  # cuDNN's are those, too, then
    torch.backends.cudnn.benchmark = not args.deterministic  # choose among algorithms by their speed
    with _by_itself(args.use_cpu) if share else nullcontext():
        accelerator = Accelerator(
            cpu=args.use_cpu,
            mixed_precision=_precision(args),
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            log_with=args.report_to,
            project_dir=args.output_dir,
        )
    if args.report_to and not accelerator.log_with:
        raise ValueError(f"--report_to {args.report_to} is not installed here: pip install {args.report_to}")
    return accelerator


@contextmanager
def _by_itself(use_cpu: bool):
    """Meanwhile Accelerate begins no process group; the process has a device, and its part of the cores."""
    place, beside = (int(os.environ.get(name, n)) for name, n in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // beside))
    devices = torch.get_device_module()  # of the accelerator that there is, or of the CPU
    if not use_cpu and devices.device_count() > 1:
        devices.set_device(place % devices.device_count())
    with patch_environment(local_rank=-1, pmi_size=1):  # what it goes by, on devices and on the CPU
        yield


def shows_progress(accelerator: Accelerator) -> bool:
    """One process of a machine does, also where each works by itself."""
    return accelerator.is_local_main_process and int(os.environ.get("LOCAL_RANK", 0)) <= 0


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
    caches: list = []

    def create() -> list[tuple]:
        caches.extend(create_caches(splits, size, where))
        return [(cache.path, size, cache.states) for cache in caches]

    for split, to_open in zip(splits, once_per_machine(accelerator, create), strict=True):
        split.cache = open_cache(*to_open)
    accelerator.wait_for_everyone()  # until then `caches` are open


def once_per_machine(accelerator: Accelerator, decide: Callable):
    """What `decide` gives on one process of each machine, of which the main process goes first and may take days; or
    the error that it raises there, on all."""
    answer = raised = None
    with main_process_prepares(accelerator):
        if accelerator.is_local_main_process:
            try:
                answer = decide()
            except (ValueError, OSError, ImportError) as error:
                raised, answer = error, ValueError(str(error))  # not all of them can be sent
    machine = socket.gethostname()
    answers = dict(gather_object([(machine, answer)] if accelerator.is_local_main_process else []))
    if raised:
        raise raised
    for answer in answers.values():
        if isinstance(answer, Exception):
            raise answer
    return answers[machine]


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


def _precision(args) -> str | None:
    """What networks compute in; None where Accelerate's own settings decide."""
    if args.mixed_precision != "auto":
        return args.mixed_precision
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"  # the launcher says `no` where nobody has
    on_gpu = torch.cuda.is_available() and not args.use_cpu
    return "bf16" if on_gpu and not said and torch.cuda.is_bf16_supported(including_emulation=False) else None
