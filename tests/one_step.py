"""Steps of the real loop on little data, as a module and, by torchrun, as a script of two ranks."""

import datetime
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.utils.data import default_collate

from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    MultiHeadClassifier,
    SoftFerConfig,
    SoftFerForImageClassification,
    multi_head_loss,
)
from affectnet_plus.training.arguments import FoldArguments, OptimizationArguments, TrainingDataArguments
from affectnet_plus.training.faces import PermutationSampler, load_splits
from affectnet_plus.training.loop import cache_faces, create_accelerator, fit, main_process_prepares, plan_runs
from affectnet_plus.training.soft_fer import SoftFerArguments, targets_of
from affectnet_plus.training.train_au import AUArguments
from affectnet_plus.training.train_soft_fer import RawOutputs, soft_fer_targets_loss

FACES = 32  # of a step
NETWORK = {"image_size": 32, "backbone": "test_vit"}


def arguments(output_dir, **more) -> OptimizationArguments:
    defaults = {"max_train_steps": 1, "learning_rate": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.0, "use_cpu": True}
    defaults |= {"warmup_steps": 0, "lr_scheduler_type": "constant_with_warmup", "dataloader_num_workers": 0}
    return OptimizationArguments(output_dir=str(output_dir), **(defaults | more))


def trained(
    kind: str, data: Path, output_dir: Path, accelerator: Accelerator, augmented_in_loop: bool = False, **more
) -> dict[str, np.ndarray]:
    """The weights of an AU expert ("au") or a Soft-FER model with valence and arousal ("soft_fer") after training;
    of the first quarter of the faces of the first step nearly all units, valences and arousals are unknown. On a GPU
    faces are augmented in the loop, not by the loader."""
    share = accelerator.num_processes * accelerator.gradient_accumulation_steps
    args = arguments(output_dir, per_device_train_batch_size=FACES // share, **more)
    args.gradient_accumulation_steps = accelerator.gradient_accumulation_steps
    splits = load_splits(TrainingDataArguments(dataset_name=str(data)), with_soft_labels=True)
    groups = [np.arange(len(splits[0]))]
    if kind == "au":
        config, model_class, kind_args = AUConfig(**NETWORK), AUForImageClassification, AUArguments(**NETWORK)
        rng, units = np.random.default_rng(0), len(config.action_units["happy"])
        targets = np.column_stack([splits[0].labels == 1, rng.random((len(splits[0]), units))]).astype("float32")
        create, first_unknown = (lambda: MultiHeadClassifier(config, "happy")), 1
        loss = lambda *pair, **known: multi_head_loss(*pair, au_loss_weight=1.0, **known)  # noqa: E731
    else:
        config = SoftFerConfig(**NETWORK, valence_arousal=True)
        model_class, kind_args = SoftFerForImageClassification, SoftFerArguments(**NETWORK, valence_arousal=True)
        targets = targets_of(splits[0], kind_args)
        create, first_unknown = (lambda: RawOutputs(config)), 8
        loss = lambda *pair, **known: soft_fer_targets_loss(*pair, config, 1.0, **known)  # noqa: E731
    drawn = [row for row, _ in PermutationSampler(groups, args.seed * 8, FACES)]
    targets[drawn[: FACES // 4 - 1], first_unknown:] = np.nan
    (run,) = plan_runs(
        accelerator, TrainingDataArguments(dataset_name=str(data)), args, FoldArguments(), kind_args, config,
        model_class, ["all"], *splits,
    )  # fmt: skip
    job = run.job("all", targets, groups)
    if augmented_in_loop:
        job.augment, job.train_batches.collate_fn = job.train_batches.collate_fn.__self__, default_collate
    network, _, record = fit(job, run.create("all", create), loss, measure=lambda outputs: {})
    assert record["steps"] == args.max_train_steps
    state = accelerator.unwrap_model(network).state_dict()
    accelerator.free_memory()
    return {name: values.cpu().numpy().copy() for name, values in state.items()}


def plain_steps(groups, lr, fused):
    """In place of AdamW, which makes steps of one length of gradients of any length."""
    return torch.optim.SGD(groups, lr=lr, fused=fused)


def main(data: Path, folder: Path) -> None:
    torch.optim.AdamW = plain_steps
    accelerator = create_accelerator(arguments(folder, gradient_accumulation_steps=2))
    usual = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout
    assert usual <= datetime.timedelta(minutes=30), usual
    for kind in ("au", "soft_fer"):
        state = trained(kind, data, folder / kind, accelerator)
        if accelerator.is_main_process:
            np.savez(folder / f"{kind}.npz", **state)

    own = folder / f"of-rank-{accelerator.process_index}"  # as on machines with disks of their own
    if accelerator.is_main_process:
        finished = SoftFerConfig(**NETWORK, valence_arousal=True, training={"all": {"seed": 9}})
        SoftFerForImageClassification(finished).save_pretrained(own)
    try:
        trained("soft_fer", data, own, accelerator)
    except ValueError as error:
        (folder / f"refused-{accelerator.process_index}").write_text(str(error))

    _, faces = load_splits(TrainingDataArguments(dataset_name=str(data)))
    cache_faces(accelerator, [faces], 32, "memory")
    if not accelerator.is_main_process:
        for row in range(len(faces)):
            faces.scaled_image(row, (32, 32))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shared = sum(faces.cache.read(row) is not None for row in range(len(faces)))
        (folder / "shared").write_text(f"{shared} of {len(faces)}")

    # With a timeout of a second for everything: who prepares something may take longer, who hangs may not.
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=1), dist.group.WORLD)
    with main_process_prepares(accelerator):
        if accelerator.is_main_process:
            time.sleep(2.5)
            (folder / "cache").touch()
        assert (folder / "cache").exists()
    if accelerator.is_main_process:
        try:
            accelerator.wait_for_everyone()
        except RuntimeError:
            (folder / "gave_up").touch()
    else:  # hangs until it is given up
        while not (folder / "gave_up").exists():
            time.sleep(0.1)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
