"""A model's folder, measured as it was saved."""

import json

import numpy as np
from torch.utils.data import DataLoader

from affectnet_plus import match_expressions
from affectnet_plus.training.faces import FaceDataset, Split, indices_among, loader_settings
from affectnet_plus.training.loop.folders import locked_for_reading, locked_if_shared, written_beside
from affectnet_plus.training.loop.predict import predict
from affectnet_plus.training.loop.runs import Run
from affectnet_plus.training.metrics import OneVsRest, js_divergence, nan_to_none


def evaluate_folder(run: Run) -> None:
    """Measure the model as it was saved: metrics.json with AUROC, accuracy and, where there are soft labels, JS. Where
    processes train networks of their own, whoever has brought the last one does it."""
    accelerator, args, evaluation = run.accelerator, run.args, run.evaluation
    run.initial_weights = []  # no expert is started any more
    if run.share and not run.is_whole:
        return
    with locked_for_reading(accelerator, run.output_dir):
        model = run.model_class.from_pretrained(run.output_dir)
        measured = (run.output_dir / "config.json").read_bytes()
    expressions = model.config.expressions
    dataset = FaceDataset(evaluation, model.image_processor)
    loader = accelerator.prepare(
        DataLoader(
            dataset,
            args.per_device_eval_batch_size,
            **loader_settings(args.dataloader_num_workers, accelerator.device),
        )
    )
    logits = predict(accelerator, accelerator.prepare_model(model, evaluation_mode=True), loader)["logits"]
    accelerator.free_memory()  # another fold may follow, whose checkpoints are its own
    if not accelerator.is_main_process:
        return
    labels = indices_among(expressions, evaluation.labels)
    indices = match_expressions(expressions)
    scores = 1 / (1 + np.exp(-logits))
    metrics = one_vs_rest(expressions, scores, evaluation)
    if (labels >= 0).all():  # of experts, all are there
        possible = np.where(evaluation.known[:, indices], scores, -1)
        metrics["accuracy"] = float((possible.argmax(axis=1) == labels).mean())
        if evaluation.soft_labels is not None:
            metrics["js_divergence"] = js_divergence(scores, evaluation.soft_labels[:, indices])
    metrics["rows"] = len(labels)
    text = json.dumps(nan_to_none(metrics), indent=1)
    with locked_if_shared(run.output_dir):
        if (run.output_dir / "config.json").read_bytes() == measured:  # or another run measures what it has brought
            with written_beside(run.output_dir) as folder:
                (folder / "metrics.json").write_text(text)
    print(text)


def one_vs_rest(expressions: list[str], scores: np.ndarray, split: Split) -> dict:
    """`OneVsRest` of scores (N, expressions), each among the rows of the split of which its expression is known."""
    return OneVsRest(expressions).compute(
        predictions=np.where(split.known[:, match_expressions(expressions)], scores, np.nan),
        references=indices_among(expressions, split.labels),
    )
