"""The files of a folder of labels: tables, card, and the settings they were made by."""

import hashlib
import json
import os
from pathlib import Path
from types import NoneType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from huggingface_hub import DatasetCard, DatasetCardData

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import under_present_names
from affectnet_plus.modeling.model_card import escaped
from affectnet_plus.training.arguments import read_record
from affectnet_plus.training.faces import Split, described_corrections
from affectnet_plus.training.metrics import js_divergence, ranks_of
from affectnet_plus.training.metrics.slices import subsets_of_ranks
from affectnet_plus.training.soft_labels.cross_fitting import experts_of, expressions_of_experts
from affectnet_plus.training.soft_labels.posterior import PRECISION, posterior_of
from affectnet_plus.training.soft_labels.priors import described_prior

LOCK = ".label.lock"  # of whoever labels into a folder
SCORES = ("ebc", "au", "soft_label")
DECIMALS = 6  # more than the four that are released: labels may yet be expressed for another prior
_CARD = """---
{{ card_data }}
---

# Soft labels

Made by `training/label.py` of affectnet-plus from {{ data }}: `{{ scores | join("`, `") }}` are scores in the order
{{ expressions | join(", ") }}{% if unknown %}, null for {{ unknown | join(", ") }}, of which the experts know nothing\
{% endif %}; `human_label` is an index in that order, `rank` its place among `soft_label`, `subset` 0
easy (rank 1), 1 challenging (2 or 3), 2 difficult. `posterior` is `soft_label` after one human label more:
({{ precision }} * score + [human label is this one]) / ({{ precision }} + 1), affectnet-plus's own.

Class frequencies that scores are calibrated to (prior): {{ prior }}. `label.py --labels` expresses them for others.
`label.json` says by which experts.
"""


def label_settings(
    data_args, args, splits: list[Split], folds: dict, accelerator: Accelerator, prior: np.ndarray | None
) -> dict:
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
        "corrections": described_corrections(data_args.corrections),
        "splits": rows,
        "experts_sha256": experts,
        "tta": args.tta,
        "eval_split": data_args.eval_split_name,
        "mixed_precision": accelerator.mixed_precision,
        "rows_per_file": args.rows_per_file,
        "expressions": expressions_of_experts(folds),
        "prior": described_prior(prior),
        "posterior": described_precision(args.prior_precision, data_args),
    }


def described_precision(asked: float | str, data_args) -> dict:
    """With None where it is still to be fitted."""
    if asked == "fit":
        return {"prior_precision": None, "how": f"fitted to the votes of {data_args.eval_split_name}"}
    return {"prior_precision": asked, "how": "given"}


def check_settings(output_dir: Path, settings: dict) -> float | None:
    """Raise `ValueError` where the folder holds labels of other settings. Returns the prior precision, None where it is
    still to be fitted; one that was fitted for this folder is taken up."""
    file = output_dir / "label.json"
    saved = settings
    if file.exists():
        cure = "name another --output_dir, or delete that one"
        saved = under_present_names(read_record(file, cure, splits=dict, posterior=(dict, NoneType)))
    if (
        settings["posterior"]["prior_precision"] is None
        and saved.get("posterior", {}).get("how", "") == settings["posterior"]["how"]
    ):
        settings["posterior"] = saved["posterior"]
    if differing := [key for key in settings if saved.get(key) != settings[key]]:
        raise ValueError(
            f"{output_dir} holds labels of other settings ({', '.join(differing)}): name another --output_dir, or "
            "delete that one."
        )
    return settings["posterior"]["prior_precision"]


def write_settings(output_dir: Path, settings: dict) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    beside = output_dir / ".label.json"
    beside.write_text(json.dumps(settings, indent=1))
    os.replace(beside, output_dir / "label.json")


def label_table(split: Split, rows: np.ndarray, scores: np.ndarray, precision: float = PRECISION) -> pa.Table:
    """scores: (3, rows, 8), as `SCORES`."""
    return table_of(split.name, split.ids[rows], split.labels[rows], scores, precision)


def table_of(split: str, ids: np.ndarray, labels: np.ndarray, scores: np.ndarray, precision: float) -> pa.Table:
    """The columns of rows with `ids` (rows,), human `labels` (rows,), -1 for none, and `scores` (3, rows, 8), NaN for
    what the experts do not know."""
    scores = scores.round(DECIMALS).astype("float32")
    soft_label, unknown = scores[-1], labels < 0
    ranks = ranks_of(soft_label, np.where(unknown, 0, labels))
    unranked = unknown | np.isnan(soft_label[np.arange(len(labels)), labels])
    posterior = posterior_of(soft_label.astype(np.float64), labels, precision).round(DECIMALS).astype("float32")
    columns = {
        "split": pa.array([split] * len(ids)),
        "image_id": pa.array(ids),
        **{name: _lists(values) for name, values in zip(SCORES, scores, strict=True)},
        "human_label": pa.array(labels.astype("int8"), mask=unknown),
        "rank": pa.array(ranks.astype("int8"), mask=unranked),
        "subset": pa.array(subsets_of_ranks(ranks).astype("int8"), mask=unranked),
        "posterior": _lists(posterior, unknown),
    }
    return pa.table(columns)


def _lists(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.FixedSizeListArray:
    mask = None if unknown is None else pa.array(unknown)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), from_pandas=True), len(EXPRESSIONS), mask=mask)


def write_table(table: pa.Table, file: Path, process: int = 0) -> None:
    beside = file.with_name(f".{file.name}.{process}")
    try:
        pq.write_table(table, beside)
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_card(output_dir: Path, settings: dict) -> None:
    prior, files = settings["prior"], [{"split": name, "path": f"{name}-*.parquet"} for name in settings["splits"]]
    card = DatasetCard.from_template(
        DatasetCardData(configs=[{"config_name": "default", "data_files": files}]),
        template_str=_CARD,
        data=escaped(settings["data"]),
        scores=SCORES,
        expressions=EXPRESSIONS,
        unknown=[name for name in EXPRESSIONS if name not in settings.get("expressions", EXPRESSIONS)],
        precision=f"{settings['posterior']['prior_precision']:.4g}",
        prior=prior if isinstance(prior, str) else ", ".join(f"{name} {share:.4f}" for name, share in prior.items()),
    )
    card.save(output_dir / "README.md")


def report(output_dir: Path, splits: list[Split], evaluation: Split | None) -> None:
    """How many rows of each subset, and, where validation has soft labels of its own, how near ours are."""
    for split in splits:
        table = pq.read_table(sorted(output_dir.glob(f"{split.name}-*.parquet")))
        subsets = table["subset"].drop_null().to_numpy()
        line = f"{split.name}: {len(table):,} faces"
        if len(subsets):
            counts = np.bincount(subsets, minlength=3)
            line += ", easy {:,}, challenging {:,}, difficult {:,}".format(*counts)
        known = evaluation is not None and evaluation.soft_labels is not None
        place = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
        if known and split.name == evaluation.name and all(row_id in place for row_id in evaluation.ids):
            ours = np.array(table["soft_label"].to_pylist(), float)[[place[row_id] for row_id in evaluation.ids]]
            of_both = ~np.isnan(ours + evaluation.soft_labels).any(axis=0)
            divergence = js_divergence(ours[:, of_both], evaluation.soft_labels[:, of_both])
            line += f", Jensen-Shannon divergence to the dataset's own soft labels {divergence:.4f}"
        print(line)
