"""The card of a model, from nothing but its config."""

import re
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .backbone import backbones_of
from .configuration_soft_label import ID2LABEL
from .model_card_template import TEMPLATE

CARD_METRICS = {  # of evaluate_model.py, by their names in metrics.json and on every page and card
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "js_divergence": "JS divergence (nats)",
    "mae": "mean absolute error",
    "ece": "expected calibration error (ECE)",
}
_OF_SOFT_LABELS = ("js_divergence", "mae", "ece")
_TITLES = {
    "affectnet_plus_ebc": "AffectNet+ EBC",
    "affectnet_plus_au": "AffectNet+ AU experts",
    "affectnet_plus_fused": "AffectNet+ soft labels: EBC and AU experts, fused",
    "affectnet_plus_soft_fer": "AffectNet+ Soft-FER",
}
_AFFECTNET = "http://mohammadmahoor.com/pages/databases/affectnet/"
_FERPLUS = "https://github.com/microsoft/FERPlus"
_LICENCES = {  # by how the names of data begin
    ("affectnet",): {"license": "other", "license_name": "affectnet", "license_link": _AFFECTNET},
    ("ferplus", "fer_plus"): {"license": "other", "license_name": "ferplus", "license_link": _FERPLUS},
}


def model_card(config, repo_id: str | None = None) -> ModelCard:
    """The card of a model.

    Args:
        config: of any of our models.
        repo_id: its repository on the Hub, which holds its code as well; None for a folder.
    """
    parts = _parts(config)
    datasets = sorted(
        {
            _hub_name(name)
            for part in parts
            for record in part.training.values()
            if record.get("data")
            for name in record.get("rows_by_dataset", [record["data"]])  # of several their names
        }
    )
    data = ModelCardData(
        **_licence(datasets, [record for part in parts for record in part.training.values()]),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "soft-labels", "affectnet-plus"],
        datasets=datasets or None,
        base_model=_base_models(parts) or None,
        model_name=_TITLES[config.model_type],
        eval_results=_evaluation_results(config.evaluation),
    )
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        config=config,
        model_id=_TITLES[config.model_type],
        repo_id=repo_id,
        expressions=[escaped(name) for name in config.expressions],
        activation=getattr(config, "activation", "sigmoid"),
        preprocessing=_preprocessing(config),
        calibrated=bool(parts[0].calibration),
        prior=", ".join(f"{escaped(name)} {prior:.4f}" for name, prior in (config.prior or {}).items()),
        backbones=", ".join(backbones_of(parts[0])),
        au_backbones=", ".join(backbones_of(parts[-1])),
        action_units=_action_units(config),
        training=_training(config),
        fitted=_fitted(config),
    )


def _parts(config) -> list:
    """The configs of a fused model's experts; of any other, its own."""
    return [config.ebc, config.au] if hasattr(config, "ebc") else [config]


def escaped(text: str) -> str:
    """Text of a Markdown page in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(str(text).split()))


def _without_tags(text: str | None) -> str | None:
    """Text for metadata, where nothing can be escaped."""
    return None if text is None else re.sub(r"[<>]", "", text)


def _hub_name(data: str) -> str:
    """What a dataset is called in metadata, where the Hub refuses other characters than those of its ids."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        return data
    return re.sub(r"[^\w.-]+", "-", data.lower().replace("+", "_plus")).strip("-")


def _licence(datasets: list[str], records: list[dict]) -> dict[str, Any]:
    """That of the data; ours, where a model is known to have seen no other faces than those that we draw."""
    for start, licence in _LICENCES.items():
        if any(name.startswith(start) for name in datasets):
            return licence
    from_elsewhere = any(record.get(key) for record in records for key in ("pretrained", "init_from", "teacher"))
    drawn = datasets and all(name.startswith("synthetic-affectnet") for name in datasets)
    return {"license": "apache-2.0" if drawn and not from_elsewhere else "unknown"}


def _base_models(parts: list) -> list[str]:
    """timm's repositories whose weights the backbones were started from."""
    names = {
        name: timm.get_pretrained_cfg(name, allow_unregistered=True)
        for part in parts
        if any(record.get("pretrained") for record in part.training.values())
        for name in backbones_of(part)
    }
    return [found.hf_hub_id for found in names.values() if found is not None and found.hf_hub_id]


def _evaluation_results(evaluation: dict) -> list[EvalResult] | None:
    names = CARD_METRICS | {f"{name}_ccc": f"{name}, concordance (CCC)" for name in ("valence", "arousal")}
    asked = evaluation.get("expressions", ID2LABEL.values())
    among = f", among {', '.join(asked)}" if len(asked) < len(ID2LABEL) else ""
    of_data: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "facial expression recognition",
        "dataset_name": _without_tags(f"{evaluation.get('data')}, {evaluation.get('rows', 0):,} faces{among}"),
        "dataset_type": _hub_name(str(evaluation.get("data", ""))),
        "dataset_config": _without_tags(evaluation.get("data_config")),
        "dataset_split": _without_tags(evaluation.get("split")),
    }
    against = f", against {evaluation['ground_truth']}" if evaluation.get("ground_truth") else ""
    return [
        EvalResult(
            **of_data,
            metric_type=key,
            metric_name=_without_tags(name + against * (key in _OF_SOFT_LABELS)),
            metric_value=evaluation[key],
        )
        for key, name in names.items()
        if key in evaluation
    ] or None


def _preprocessing(config) -> list[str]:
    """What the model does to an image, a sentence each."""
    steps = []
    if config.grayscale:
        steps.append("The model sees nothing but its luminance")
    if config.per_image_standardization:
        steps.append("The model standardises each image by its own mean and deviation")
    if config.upscale > 1:
        steps.append(f"It is enlarged to {config.network_size} x {config.network_size} pixels inside the model")
    renormalized = [
        f"{name} {trained['mean']} and {trained['std']}"
        for part in _parts(config)
        for name, trained in zip(backbones_of(part), part.backbone_normalization or [], strict=False)
        if trained and not config.per_image_standardization
    ]
    if renormalized:
        steps.append(
            "Inside the model each backbone gets the mean and deviation that its pretrained weights were trained with "
            f"({', '.join(dict.fromkeys(renormalized))})"
        )
    if getattr(config, "tta", False):
        steps.append("Scores are the mean over the image and its horizontal flip (test-time augmentation)")
    return steps


def _fitted(config) -> str:
    """What was decided on validation."""
    if config.model_type != "affectnet_plus_soft_fer":
        best_by = {record.get("metric_for_best_model") for part in _parts(config) for record in part.training.values()}
        return "the calibration was fitted" + " and the epochs were chosen" * bool(best_by - {None, "last"})
    best_by = config.training.get("all", {}).get("metric_for_best_model")
    return f"the epoch was chosen, by {best_by}" if best_by else ""


def _action_units(config) -> str:
    units = getattr(config, "action_units", {})
    listed = [f"{escaped(name)} {' '.join(map(str, units[name]))}" for name in config.expressions if name in units]
    return "; ".join(listed)


def _training(config) -> str:
    if hasattr(config, "ebc"):
        return _training_of_fused(config)
    if not config.training:
        return "Untrained."
    if "all" in config.training:
        return _lines(config.training["all"])
    weights = getattr(config, "backbones", [])
    names = ["expression", "AUROC", "average precision", *(f"weight {b}" for b in weights), "temperature", "shift"]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name in config.expressions:
        figures, fitted = config.training.get(name, {}), config.calibration.get(name, {})
        values = [figures.get("auroc"), figures.get("average_precision")]
        values += fitted.get("backbone_weights", [])[: len(weights)]
        values += [fitted.get("temperature"), fitted.get("log_odds_shift")]
        rows.append(f"| {escaped(name)} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + " |")
    settings = config.training.get(config.expressions[0], {})
    lines = _lines({key: value for key, value in settings.items() if key not in ("auroc", "average_precision")})
    return "\n".join(
        ["On validation, one-vs-rest:", "", *rows, "", f"Settings ({escaped(config.expressions[0])}):", "", lines]
    )


def _lines(settings: dict) -> str:
    """As code, in which nothing is Markdown."""
    return "\n".join(["```text", *(f"{key}: {' '.join(str(value).split())}" for key, value in settings.items()), "```"])


def _training_of_fused(config) -> str:
    rows = ["| expression | weight of the EBC |", "|---|---|"]
    rows += [f"| {escaped(name)} | {config.ebc_weights.get(name, 0.5):.3f} |" for name in config.expressions]
    return "\n\n".join(["\n".join(rows), "### EBC", _training(config.ebc), "### AU experts", _training(config.au)])
