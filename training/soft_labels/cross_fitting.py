"""Which experts label which rows: those that have not seen them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from affectnet_plus.modeling import FusedConfig, read_config
from affectnet_plus.training.faces import Split, load_rows, split_to_label
from affectnet_plus.training.soft_labels.priors import prior_of


def find_folds(args) -> dict[int | None, dict[str, str]]:
    """{fold, or None where there are none: {"ebc": folder, "au": folder} or {"model": ...}}."""
    if args.model:
        folds = {int(path.name[5:]): {"model": str(path)} for path in sorted(Path(args.model).glob("models/fold-*"))}
        if (Path(args.model) / "model").is_dir():
            folds = {None: {"model": str(Path(args.model) / "model")}}
        folds = folds or {None: {"model": args.model}}
        for kinds in folds.values():
            if read_config(kinds["model"], "--model").model_type != FusedConfig.model_type:
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
            config = read_config(path, f"--{kind}")
            if config.model_type != f"affectnet_plus_{kind}":
                raise ValueError(f"--{kind} {path} is a {config.model_type}: name a folder that train_{kind}.py wrote.")
            if len(config.expressions) < 2:
                raise ValueError(
                    f"--{kind} {path} holds an expert of {config.expressions[0]} alone, and a soft label is of two "
                    f"expressions at least: train_{kind}.py --expressions ..."
                )
            if folds and {record.get("num_folds") for record in config.training.values()} != {len(folds)}:
                raise ValueError(f"--{kind} {folder} has {len(folds)} of its folds only: train the others, too.")
            found.setdefault(fold, {})[kind] = str(path)
    if any(len(kinds) < 2 for kinds in found.values()):
        raise ValueError(f"--ebc {args.ebc} and --au {args.au} do not have the same folds: train both alike.")
    for kinds in found.values():
        FusedConfig(**{kind: read_config(path) for kind, path in kinds.items()})  # do they fit?
    expressions_of_experts(found)
    prior_of(found)
    folds_by(found)
    return found


def expressions_of_experts(folds: dict) -> list[str]:
    """The expressions that all experts have; `ValueError` where some have others."""
    first, *others = (part.expressions for part in experts_of(folds))
    for other in others:
        if other != first:
            raise ValueError(
                f"The experts of some folds have other expressions ({', '.join(other)}) than those of others "
                f"({', '.join(first)}): train all of them alike."
            )
    return first


def experts_of(folds: dict) -> list:
    """The configs of all EBCs and AU experts."""
    configs = [read_config(path) for kinds in folds.values() for path in kinds.values()]
    return [part for c in configs for part in ((c.ebc, c.au) if hasattr(c, "ebc") else (c,))]


def folds_by(folds: dict) -> str:
    """What the experts' folds go by, "content" or "id"; `ValueError` where they do not agree."""
    found = {str(record.get("folds_by", "id")) for part in experts_of(folds) for record in part.training.values()}
    if len(found) > 1:
        raise ValueError("The experts' folds go by the images' content and by ids: train all of them with one version.")
    return found.pop() if found else "id"


def known_rows(data_args, args, folds: dict, splits: list[Split]) -> Split | None:
    """The rows that experts in folds by content were trained on, where this dataset has them; else None."""
    records = [record for part in experts_of(folds) for record in part.training.values()]
    if None in folds or args.image_dir or folds_by(folds) != "content" or records[0]["data"] != data_args.name():
        return None
    config_name, split = (records[0][key] for key in ("data_config", "split"))
    there = [rows for rows in splits if rows.name == split and args.max_samples is None]
    if there and config_name == (data_args.dataset_config_name or "default"):
        return there[0]  # so that its images are hashed only once
    wanted = replace(data_args, dataset_config_name=None if config_name == "default" else config_name)
    rows = load_rows(wanted)
    return split_to_label(rows[split], wanted) if split in rows else None


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
            of_several = "rows_by_dataset" in record  # this one may be among them
            if of_several or record.get("folds_by") == "content" or record.get("ids") == split.id_source:
                seen.add(split.name)
            elif record.get("data") == settings["data"]:
                raise ValueError(
                    f"The experts know the rows of {split.name} by {record.get('ids')}, these rows have "
                    f"{split.id_source}: label the very dataset that they were trained on."
                )
    return sorted(seen)


def warn_of_seen_rows(folds: dict, seen: list[str]) -> None:
    if None in folds and seen:
        tqdm.write(
            f"label.py: warning: if these are the rows that the experts were trained on ({', '.join(seen)}), their "
            "labels repeat the human's. Train with --num_folds to label every row by experts that have not seen it."
        )


def plan_shards(
    splits: list[Split], folds: dict, seen: list[str], rows_per_file: int, by: str = "id", known: Split | None = None
) -> list[tuple[str, Split, np.ndarray, list]]:
    """(file name, split, rows, folds whose experts label them), as many rows as go into a file. `known`: the rows that
    experts were trained on, whose copies in other splits are labelled by the experts that have not seen them."""
    shards = []
    for split in splits:
        seen_rows = np.full(len(split), split.name in seen)
        if known is not None and known.contents is not None and split.contents is not None:
            seen_rows |= np.isin(split.contents, known.contents)
        groups = [(np.arange(len(split)), list(folds))]
        if None not in folds and seen_rows.any():
            fold_of = split.folds(len(folds), by)
            of_fold = [(np.flatnonzero(seen_rows & (fold_of == fold)), [fold]) for fold in folds]
            groups = [(np.flatnonzero(~seen_rows), list(folds)), *of_fold]
        files = [
            (rows[start : start + rows_per_file], labelled_by)
            for rows, labelled_by in groups
            for start in range(0, len(rows), rows_per_file)
        ]
        for number, (rows, labelled_by) in enumerate(files):
            shards.append((f"{split.name}-{number:05d}-of-{len(files):05d}.parquet", split, rows, labelled_by))
    return shards
