"""Labels expressed anew for other class frequencies, or with another prior precision, without a network."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from affectnet_plus.training.arguments import read_record
from affectnet_plus.training.faces import files_of, read_file, read_soft_labels
from affectnet_plus.training.soft_labels.calibration import prior_of_rows, reexpress
from affectnet_plus.training.soft_labels.evaluation_rows import check_votes, load_evaluation
from affectnet_plus.training.soft_labels.label_files import (
    SCORES,
    check_settings,
    described_precision,
    table_of,
    write_card,
    write_settings,
    write_table,
)
from affectnet_plus.training.soft_labels.posterior import fit_precision
from affectnet_plus.training.soft_labels.priors import UNKNOWN_PRIOR, described_prior, numbers_of, prior_of_labels


def express_anew(data_args, args, output_dir: Path) -> None:
    """Write the labels of another folder for another prior, or with another prior precision: no network is run, and no
    image is looked at."""
    if data_args.corrections:
        raise ValueError("--corrections goes with faces, not with --labels: label them anew.")
    source = Path(args.labels)
    if not (source / "label.json").is_file():
        raise ValueError(f"--labels {source} is no folder of label.py: it has no label.json.")
    settings = read_record(source / "label.json", "label these rows anew", splits=dict)
    files = {split: files_of(str(source), split) for split in settings["splits"]}
    if missing := {"human_label", *SCORES} - set(read_file(files[next(iter(files))][0], read=pq.read_schema).names):
        raise ValueError(f"--labels {source} has no {', '.join(sorted(missing))}: label these faces anew.")
    if not isinstance(settings.get("prior"), dict):
        raise ValueError(
            f"--labels {source}: what scores are calibrated to is {UNKNOWN_PRIOR}. Train the experts anew."
        )
    from_prior = numbers_of(settings["prior"])

    def labels_in(split: str) -> np.ndarray:
        if split not in files:
            raise ValueError(f"--labels {source} has no rows of {split}: give --prior numbers.")
        return pq.read_table(files[split], columns=["human_label"])["human_label"].drop_null().to_numpy()

    prior = prior_of_labels(args, from_prior, labels_in)
    settings |= {
        "prior": described_prior(prior),
        "posterior": described_precision(args.prior_precision, data_args),
        "expressed_anew": {"labels": source.name, "prior": settings["prior"]},
    }
    if output_dir.resolve() == source.resolve():
        raise ValueError(f"--output_dir {output_dir} is the folder of --labels itself: name another one.")
    precision = check_settings(output_dir, settings)
    if precision is None:
        evaluation = load_evaluation(data_args)
        check_votes(data_args, evaluation)
        scores = read_soft_labels(str(source), evaluation)
        scores = reexpress(scores, from_prior, prior_of_rows(evaluation.labels, prior))
        precision = fit_precision(scores, evaluation.labels, evaluation.soft_labels)
        settings["posterior"]["prior_precision"] = precision
    write_settings(output_dir, settings)
    for file in [file for of_split in files.values() for file in of_split]:
        table = read_file(file)
        scores = np.stack([np.array(table[name].to_pylist(), float).reshape(len(table), -1) for name in SCORES])
        human = table["human_label"].fill_null(-1).to_numpy().astype(int)
        split, ids = table["split"][0].as_py(), np.array(table["image_id"].to_pylist())
        write_table(
            table_of(split, ids, human, reexpress(scores, from_prior, prior), precision), output_dir / file.name
        )
    write_card(output_dir, settings)
    print(f"{sum(map(len, files.values()))} files of {source} expressed anew: {output_dir}")
