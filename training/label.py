#!/usr/bin/env python
"""Make soft labels: EBC and AU experts, fused, on faces that they were not trained on.

    accelerate launch training/label.py --data_dir R --ebc runs/ebc --au runs/au --output_dir runs/soft
    accelerate launch training/label.py --image_dir FACES --model runs/soft --output_dir runs/faces

Writes Parquet: split, image_id, and ebc, au, soft_label (8 scores each, four decimals, AffectNet's order), rank of the
human label among the fused scores and subset (0 easy: rank 1; 1 challenging: 2 or 3; 2 difficult). Experts that were
trained in folds (--num_folds) label the rows they have not seen; all other rows get the mean of the folds. Killed at
any moment, the same command goes on at the last whole file. Several processes share the files.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from affectnet_plus.modeling import FusedConfig, ImageError
from affectnet_plus.training.arguments import DataArguments, parse_arguments, stop, stop_at_image
from affectnet_plus.training.checkpoints import written_beside
from affectnet_plus.training.data import FaceDataset, Split, images_in, load_rows, load_split, split_to_label
from affectnet_plus.training.experts import check_outputs, main_process_prepares
from affectnet_plus.training.fusion import fit_fusion, fused_model
from affectnet_plus.training.metrics import js_divergence, ranks_of
from affectnet_plus.training.slices import subsets_of_ranks
from affectnet_plus.training.write_release import check_target, write_release
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification

from affectnet_plus import EXPRESSIONS, SUBSETS

SCORES = ("ebc", "au", "soft_label")
DECIMALS = 4  # as released
_CARD = """---
configs:
- config_name: default
  data_files:
{files}
---
# Soft labels

Made by `training/label.py` of affectnet-plus from {data}: `{scores}` are scores in the order {expressions};
`rank` is that of the human label among `soft_label`, `subset` 0 easy (rank 1), 1 challenging (2 or 3), 2 difficult.
`label.json` says by which experts.
"""


@dataclass
class LabelArguments:
    """What labels what."""

    output_dir: str = field(metadata={"help": "Folder for the labels, and for the fused model that makes them."})
    ebc: str | None = field(default=None, metadata={"help": "Folder of train_ebc.py."})
    au: str | None = field(default=None, metadata={"help": "Folder of train_au.py, with the same folds or none."})
    model: str | None = field(
        default=None, metadata={"help": "Instead of both: a folder of label.py, or a fused model (folder or Hub id)."}
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Label the face images in this folder, instead of a release or dataset."}
    )
    write_release: str | None = field(
        default=None,
        metadata={"help": "Also write images and labels there as a release in the layout of AffectNet+."},
    )
    splits: list[str] = field(default_factory=list, metadata={"help": "Which splits. Default: all."})
    max_samples: int | None = field(default=None, metadata={"help": "Label the first N rows of each split only."})
    mirrored: bool = field(
        default=False,
        metadata={
            "help": "Let --ebc and --au look at each face and its mirror image: better scores at twice the time."
        },
    )
    per_device_batch_size: int = field(default=64, metadata={"help": "Faces per device and step."})
    rows_per_file: int = field(default=2000, metadata={"help": "Rows of one file: what a kill can cost."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode images, per device."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})

    def __post_init__(self):
        if bool(self.model) == bool(self.ebc and self.au) or bool(self.ebc) != bool(self.au):
            raise ValueError("Name the experts: --ebc and --au together, or --model, a model that has both.")
        if self.model and self.mirrored:
            raise ValueError("--mirrored is for fusing --ebc and --au; a fused --model mirrors if it was made so.")
        for name in ("per_device_batch_size", "rows_per_file", "max_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} has to be above 0, not {getattr(self, name)}.")


def main():
    data_args, args = parse_arguments(DataArguments, LabelArguments, description=__doc__.split("\n\n")[0])
    output_dir = Path(args.output_dir)
    # Everything the user can mend is said here, before any long work.
    try:
        accelerator = Accelerator(cpu=args.use_cpu)
        folds = find_folds(args)
        with main_process_prepares(accelerator):  # the others find the cache
            splits = load(data_args, args)
            evaluation = None if args.model else load_evaluation(data_args)
        settings = label_settings(data_args, args, splits, folds, accelerator)
        seen = seen_splits(splits, folds, settings)
        shards = plan_shards(splits, folds, seen, args.rows_per_file)
        check_settings(output_dir, settings)
        if args.write_release:
            check_target(Path(args.write_release), splits)
    except (ValueError, OSError) as error:
        stop(error)
    if accelerator.is_main_process:
        warn_of_seen_rows(folds, seen)
        write_settings(output_dir, settings)

    try:
        models = {fold: output_dir / ("model" if fold is None else f"models/fold-{fold}") for fold in folds}
        if args.model:
            models = {fold: kinds["model"] for fold, kinds in folds.items()}
        else:
            for fold in folds:
                if not (models[fold] / "config.json").exists():
                    fuse(accelerator, args, folds[fold], evaluation, models[fold])
        # The main process looks what is there already, so that all deal the rest out alike. Neighbours share a model.
        (todo,) = broadcast_object_list([[i for i, shard in enumerate(shards) if not (output_dir / shard[0]).exists()]])
        rank, ranks = accelerator.process_index, accelerator.num_processes
        own = [shards[i] for i in todo[rank * len(todo) // ranks : (rank + 1) * len(todo) // ranks]]
        label(accelerator, args, own, models, output_dir)
    except ImageError as error:
        stop_at_image(error)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for leftover in output_dir.glob(".*.parquet.*"):  # of a killed run
            leftover.unlink()
        files = "\n".join(f"  - split: {s.name}\n    path: {s.name}-*.parquet" for s in splits)
        card = _CARD.format(
            files=files, data=settings["data"], scores="`, `".join(SCORES), expressions=", ".join(EXPRESSIONS)
        )
        (output_dir / "README.md").write_text(card)
        report(output_dir, splits, evaluation)
        if args.write_release:
            write_release(Path(args.write_release), splits, output_dir, show_progress=True)


def find_folds(args) -> dict[int | None, dict[str, str]]:
    """{fold, or None where there are none: {"ebc": folder, "au": folder} or {"model": ...}}."""
    if args.model:
        folds = {int(path.name[5:]): {"model": str(path)} for path in sorted(Path(args.model).glob("models/fold-*"))}
        if (Path(args.model) / "model").is_dir():
            folds = {None: {"model": str(Path(args.model) / "model")}}
        folds = folds or {None: {"model": args.model}}
        for kinds in folds.values():
            if AutoConfig.from_pretrained(kinds["model"]).model_type != FusedConfig.model_type:
                raise ValueError(f"--model {kinds['model']} is not a fused model: give --ebc and --au.")
        trained = {record.get("num_folds") for part in experts_of(folds) for record in part.training.values()}
        if None not in folds and trained != {len(folds)}:
            raise ValueError(f"--model {args.model} has {len(folds)} of its folds only: run its label.py to the end.")
        return folds
    found = {}
    for kind in ("ebc", "au"):
        folder = Path(getattr(args, kind))
        folds = sorted(int(path.name[5:]) for path in folder.glob("fold-*") if path.name[5:].isdigit())
        whole = (folder / "config.json").exists()
        if whole == bool(folds):
            what = "holds a model and folds" if whole else "holds no model (config.json) and no fold-0"
            raise ValueError(f"--{kind} {folder} {what}: name a folder that train_{kind}.py wrote.")
        for fold in folds or [None]:
            path = folder / (f"fold-{fold}" if folds else "")
            config = AutoConfig.from_pretrained(path)
            if config.model_type != f"affectnet_plus_{kind}":
                raise ValueError(f"--{kind} {path} is a {config.model_type}: name a folder that train_{kind}.py wrote.")
            if tuple(config.expressions) != EXPRESSIONS:
                missing = [name for name in EXPRESSIONS if name not in config.expressions]
                raise ValueError(f"--{kind} {path} lacks {', '.join(missing)}: train_{kind}.py --expressions ...")
            if folds and {record.get("num_folds") for record in config.training.values()} != {len(folds)}:
                raise ValueError(f"--{kind} {folder} has {len(folds)} of its folds only: train the others, too.")
            found.setdefault(fold, {})[kind] = str(path)
    if any(len(kinds) < 2 for kinds in found.values()):
        raise ValueError(f"--ebc {args.ebc} and --au {args.au} do not have the same folds: train both alike.")
    for kinds in found.values():
        FusedConfig(**{kind: AutoConfig.from_pretrained(path) for kind, path in kinds.items()})  # do they fit?
    if len(priors := priors_of(found)) > 1:
        raise ValueError(
            f"--ebc and --au were trained with --prior {' and '.join(priors)}: train both alike to fuse them."
        )
    return found


def load_evaluation(data_args) -> Split:
    """The labelled rows on which experts are fused: of all expressions and subsets, whatever is labelled."""
    if data_args.dataset_config_name in (*SUBSETS, "human_annotated_all", "no_human_annotated"):
        data_args = replace(data_args, dataset_config_name="human_annotated")
    return load_split(data_args, data_args.eval_split_name, with_soft_labels=True)


def load(data_args, args) -> list[Split]:
    """The rows to label."""
    if args.image_dir:
        if not args.model:
            raise ValueError("--image_dir needs --model: there are no validation labels to fuse --ebc and --au on.")
        return [first_rows(images_in(args.image_dir, data_args.on_error), args.max_samples)]
    rows = load_rows(data_args)
    if unknown := [name for name in args.splits if name not in rows]:
        raise ValueError(f"The dataset has no split {unknown[0]!r}, only {', '.join(rows)}: see --splits.")
    if args.write_release and data_args.dataset_config_name == "human_annotated_all":
        raise ValueError(
            "--write_release writes rows with one of the eight expressions, or none: not human_annotated_all."
        )
    return [first_rows(split_to_label(rows[name], data_args), args.max_samples) for name in args.splits or rows]


def first_rows(split: Split, max_samples: int | None) -> Split:
    return split if max_samples is None else split.select(np.arange(min(max_samples, len(split))))


def plan_shards(
    splits: list[Split], folds: dict, seen: list[str], rows_per_file: int
) -> list[tuple[str, Split, np.ndarray, list]]:
    """(file name, split, rows, folds whose experts label them), as many rows as go into a file."""
    shards = []
    for split in splits:
        groups = [(np.arange(len(split)), list(folds))]
        if None not in folds and split.name in seen:
            fold_of = split.folds(len(folds))
            groups = [(np.flatnonzero(fold_of == fold), [fold]) for fold in folds]
        parts = [
            (rows[start : start + rows_per_file], labelled_by)
            for rows, labelled_by in groups
            for start in range(0, len(rows), rows_per_file)
        ]
        for number, (rows, labelled_by) in enumerate(parts):
            shards.append((f"{split.name}-{number:05d}-of-{len(parts):05d}.parquet", split, rows, labelled_by))
    return shards


def seen_splits(splits: list[Split], folds: dict, settings: dict) -> list[str]:
    """Splits that experts may have been trained on; `ValueError` where their folds would be others.

    Going by names, so that no row is labelled by an expert that has seen it also where a dataset goes by another name,
    as an exported release does.
    """
    seen = set()
    records = [record for part in experts_of(folds) for record in part.training.values()]
    for split in splits if settings["data_config"] != "no_human_annotated" else ():
        for record in records:
            if record.get("split") != split.name:
                continue
            if record.get("ids") == split.id_source:
                seen.add(split.name)
            elif record.get("data") == settings["data"]:
                raise ValueError(
                    f"The experts know the rows of {split.name} by {record.get('ids')}, these rows have "
                    f"{split.id_source}: label the very dataset that they were trained on."
                )
    return sorted(seen)


def experts_of(folds: dict) -> list:
    """The configs of all EBCs and AU experts."""
    configs = [AutoConfig.from_pretrained(path) for kinds in folds.values() for path in kinds.values()]
    return [part for c in configs for part in ((c.ebc, c.au) if hasattr(c, "ebc") else (c,))]


def priors_of(folds: dict) -> list[str]:
    """What the experts' scores are calibrated to (--prior), each once."""
    return sorted({record["prior"] for part in experts_of(folds) for record in part.training.values()})


def warn_of_seen_rows(folds: dict, seen: list[str]) -> None:
    if None in folds and seen:
        tqdm.write(
            f"label.py: warning: if these are the rows that the experts were trained on ({', '.join(seen)}), their "
            "labels repeat the human's. Train with --num_folds to label every row by experts that have not seen it."
        )


def label_settings(data_args, args, splits: list[Split], folds: dict, accelerator: Accelerator) -> dict:
    """What decides the labels; stands beside them, and whoever goes on has to agree with it."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    rows = {
        split.name: {"rows": len(split), "ids": split.id_source, "ids_sha256": digest("\n".join(split.ids))}
        for split in splits
    }
    experts = [digest(json.dumps([c.calibration, c.training], sort_keys=True)) for c in experts_of(folds)]
    return {
        "data": Path(args.image_dir).name if args.image_dir else data_args.name(),
        "data_config": data_args.dataset_config_name or "default",
        "splits": rows,
        "experts_sha256": experts,
        "mirrored": args.mirrored,
        "eval_split": data_args.eval_split_name,
        "mixed_precision": accelerator.mixed_precision,
        "rows_per_file": args.rows_per_file,
        "expressions": list(EXPRESSIONS),
    }


def check_settings(output_dir: Path, settings: dict) -> None:
    file = output_dir / "label.json"
    saved = json.loads(file.read_text()) if file.exists() else settings
    if differing := [key for key in settings if saved.get(key) != settings[key]]:
        raise ValueError(
            f"{output_dir} holds labels of other settings ({', '.join(differing)}): name another --output_dir, or "
            "delete that one."
        )


def write_settings(output_dir: Path, settings: dict) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    beside = output_dir / ".label.json"
    beside.write_text(json.dumps(settings, indent=1))
    os.replace(beside, output_dir / "label.json")


def fuse(accelerator, args, kinds: dict, evaluation: Split, target: Path) -> None:
    """Fuse an EBC and AU experts, fit how on validation (all processes share its rows), and save the model."""
    ebc, au = (AutoModelForImageClassification.from_pretrained(kinds[kind]) for kind in ("ebc", "au"))
    model = fused_model(ebc, au, args.mirrored)
    # Whole batches, so that sums are the same to the last bit however many processes there are.
    batch = args.per_device_batch_size
    own = np.array_split(np.arange(0, len(evaluation), batch), accelerator.num_processes)[accelerator.process_index]
    rows = [row for start in own for row in range(start, min(start + batch, len(evaluation)))]
    scores = gather_object([predict(accelerator, args, model, evaluation, rows, f"fusing {target.name}")])
    ebc_logits, au_logits = (np.concatenate([s[key] for s in scores]) for key in ("ebc_logits", "au_expert_logits"))
    if accelerator.is_main_process:  # also because transformers saves on the first rank only
        (prior,) = priors_of({None: kinds})
        fit_fusion(model, ebc_logits, au_logits, evaluation.labels, prior)
        with written_beside(target) as folder:
            model.cpu().save_pretrained(folder)
    accelerator.wait_for_everyone()


@torch.no_grad()
def predict(
    accelerator, args, model, split: Split, rows: Sequence[int], description: str | None
) -> dict[str, np.ndarray]:
    """{"logits", "ebc_logits", "au_expert_logits"}, (rows, 8) each."""
    model.to(accelerator.device).eval()
    outputs = {"logits": [], "ebc_logits": [], "au_expert_logits": []}
    dataset = Subset(FaceDataset(split, model.image_processor), [int(row) for row in rows])
    loader = DataLoader(dataset, args.per_device_batch_size, num_workers=args.dataloader_num_workers)
    shown = description and accelerator.is_local_main_process
    for batch in tqdm(loader, desc=description, disable=not shown, leave=False):
        with accelerator.autocast():
            output = model(batch["pixel_values"].to(accelerator.device))
        for name, values in outputs.items():
            values.append(output[name].float().cpu().numpy())
    none = np.zeros((0, len(EXPRESSIONS)))
    return {name: np.concatenate([none, *values]).astype(np.float64) for name, values in outputs.items()}


def label(accelerator, args, shards: list, models: dict, output_dir: Path) -> None:
    """Write the files of these shards."""
    total = sum(len(rows) for _, _, rows, _ in shards)
    progress = tqdm(total=total, desc="labelling", unit="face", disable=not accelerator.is_local_main_process)
    held, model = object(), None
    for name, split, rows, folds in shards:
        scores = []
        for fold in folds:
            if fold != held:
                held, model = fold, AutoModelForImageClassification.from_pretrained(models[fold])
            outputs = predict(accelerator, args, model, split, rows, None)
            check_outputs(outputs["logits"], str(models[fold]))
            logits = [outputs[key] for key in ("ebc_logits", "au_expert_logits", "logits")]  # as SCORES
            scores.append(1 / (1 + np.exp(-np.stack(logits))))
        table = label_table(split, rows, np.mean(scores, axis=0).round(DECIMALS).astype("float32"))
        beside = output_dir / f".{name}.{accelerator.process_index}"
        pq.write_table(table, beside)
        os.replace(beside, output_dir / name)
        progress.update(len(rows))
    progress.close()


def label_table(split: Split, rows: np.ndarray, scores: np.ndarray) -> pa.Table:
    """scores: (3, rows, 8), as `SCORES`."""
    ids, labels, soft_label = split.ids[rows], split.labels[rows], scores[-1]
    human = np.where(labels < 0, 0, labels)
    ranks = ranks_of(soft_label, human)
    unknown = labels < 0
    columns = {
        "split": pa.array([split.name] * len(rows)),
        "image_id": pa.array(ids),
        **{
            name: pa.FixedSizeListArray.from_arrays(values.ravel(), len(EXPRESSIONS))
            for name, values in zip(SCORES, scores, strict=True)
        },
        "rank": pa.array(ranks.astype("int8"), mask=unknown),
        "subset": pa.array(subsets_of_ranks(ranks).astype("int8"), mask=unknown),
    }
    return pa.table(columns)


def report(output_dir: Path, splits: list[Split], evaluation: Split | None) -> None:
    """How many rows of each subset, and, where validation has soft labels of its own, how near ours are."""
    for split in splits:
        table = pq.read_table(sorted(output_dir.glob(f"{split.name}-*.parquet")))
        subsets = table["subset"].drop_null().to_numpy()
        said = f"{split.name}: {len(table):,} faces"
        if len(subsets):
            counts = np.bincount(subsets, minlength=3)
            said += ", easy {:,}, challenging {:,}, difficult {:,}".format(*counts)
        known = evaluation is not None and evaluation.soft_labels is not None
        if known and table["image_id"].to_pylist() == evaluation.ids.tolist():
            ours = np.stack(table["soft_label"].to_numpy())
            divergence = js_divergence(ours, evaluation.soft_labels)
            said += f", Jensen-Shannon divergence to the dataset's own soft labels {divergence:.4f}"
        print(said)


if __name__ == "__main__":
    main()
