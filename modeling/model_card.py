"""The text of a model's card, from nothing but its config."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .backbone import backbones_of
from .configuration_soft_label import ID2LABEL

_TEXT = """
# {title}

How far each of {count} expressions is present in a face at once: {expressions}.
`logits` are in this order; their sigmoid is the soft label. {sum}

```python
import affectnet_plus  # this package; or trust_remote_code=True below, where this repository holds the code
from transformers import pipeline

fer = pipeline("soft-fer", model="{repo_id}")
fer("face.jpg")
```

Input: a face crop, RGB, scaled to {size} x {size} pixels, to [0, 1], then normalised with mean {mean} and standard
deviation {std}{then}. No face detector is included.
{prior}{notes}
## Method

{method}

## Training

{training}

## Limits

Scores describe how a face *looks to annotators*, not what a person feels.{fitted} A model learns its data's imbalance
of age, gender, ethnicity and head pose. AffectNet and AffectNet+ are licensed for research by their authors; weights
trained on them may fall under that licence.

Reference: Fard, Hosseini, Sweeny, Mahoor, "AffectNet+: A Database for Enhancing Facial Expression Recognition with
Soft-Labels", IEEE Transactions on Affective Computing, 2025, https://arxiv.org/abs/2410.22506.
"""

CARD_METRICS = {  # of evaluate_model.py, for the model-index
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "js": "Jensen-Shannon divergence, nats",
    "mae": "mean absolute error of the soft labels",
    "ece": "expected calibration error of the soft labels",
}
_TITLES = {
    "affectnet_plus_ebc": "AffectNet+ EBC",
    "affectnet_plus_au": "AffectNet+ AU experts",
    "affectnet_plus_fused": "AffectNet+ soft labels: EBC and AU experts, fused",
    "affectnet_plus_soft_fer": "AffectNet+ Soft-FER",
}
_METHODS = {
    "affectnet_plus_ebc": """EBC, ensemble of binary classifiers (AffectNet+, Fig. 2): per expression
{backbones}, each one-vs-rest. How they are combined is affectnet-plus's own choice, not the paper's: log-odds =
weighted mean of the classifiers' log-odds / temperature + shift, fitted on validation.""",
    "affectnet_plus_au": """AU-based classifier (AffectNet+, Fig. 3): per expression one multi-head {backbones} that
learns action units and the expression together, one-vs-rest. Which units is affectnet-plus's own choice, not the
paper's (EMFACS): {units}. So is the calibration: log-odds / temperature + shift, fitted on validation.""",
    "affectnet_plus_fused": """The AffectNet+ labeller: for each expression an EBC (Fig. 2; {backbones}) and
an AU expert (Fig. 3; {au_backbone}). How they are fused is affectnet-plus's own choice, not the paper's: score =
w * EBC + (1 - w) * AU, each calibrated (log-odds / temperature + shift), all fitted on validation.""",
    "affectnet_plus_soft_fer": """One network ({backbones}), one output per expression, trained under a
{activation}{affect}. It is affectnet-plus's own model, not the paper's.""",
}


def model_card(config, repo_id: str = "path/to/this/folder") -> ModelCard:
    """A `huggingface_hub.ModelCard` for the model that `config` describes; `repo_id` goes into its example."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "soft-labels", "affectnet-plus"],
        model_name=_TITLES[config.model_type],
        eval_results=_evaluation_results(config.evaluation),
    )
    activation = getattr(config, "activation", "sigmoid")
    affect = ", and two for valence and arousal (tanh)" if getattr(config, "valence_arousal", False) else ""
    text = _TEXT.format(
        title=_TITLES[config.model_type],
        repo_id=repo_id,
        count=len(config.expressions),
        expressions=", ".join(config.expressions),
        size=config.image_size,
        mean=list(config.image_mean),
        std=list(config.image_std),
        then=_then(config),
        sum="They sum to one." if activation == "softmax" else "The scores are independent and do not sum to one.",
        method=_METHODS[config.model_type].format(
            backbones=", ".join(backbones_of(getattr(config, "ebc", config))),
            au_backbone=", ".join(backbones_of(getattr(config, "au", config))),
            units=_units(config),
            activation=activation,
            affect=affect,
        ),
        prior=_prior(config),
        notes=f"\n{config.notes}\n" if config.notes else "",
        training=_training(config),
        fitted=f" Figures on validation come from the rows on which {fitted}." if (fitted := _fitted(config)) else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def _evaluation_results(evaluation: dict) -> list[EvalResult] | None:
    names = CARD_METRICS | {f"{name}_ccc": f"{name}, concordance (CCC)" for name in ("valence", "arousal")}
    asked = evaluation.get("expressions", ID2LABEL.values())
    among = f", among {', '.join(asked)}" if len(asked) < len(ID2LABEL) else ""
    of_data: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "facial expression recognition",
        "dataset_name": f"{evaluation.get('data')}, {evaluation.get('rows'):,} faces{among}" if evaluation else "",
        "dataset_type": str(evaluation.get("data", "")).lower().replace("+", "_plus"),
        "dataset_config": evaluation.get("data_config"),
        "dataset_split": evaluation.get("split"),
    }
    return [
        EvalResult(
            **of_data,
            metric_type=key,
            metric_name=_with_truth(name, key, evaluation),
            metric_value=evaluation[key],
        )
        for key, name in names.items()
        if key in evaluation
    ] or None


def _with_truth(name: str, key: str, evaluation: dict) -> str:
    return f"{name}, against {evaluation['truth']}" if key in ("js", "mae", "ece") and evaluation.get("truth") else name


def _then(config) -> str:
    steps = []
    if config.grayscale:
        steps.append("The model sees nothing but its luminance")
    if config.per_image_standardization:
        steps.append("The model standardises each image by its own mean and deviation")
    if config.upscale > 1:
        steps.append(f"It is enlarged to {config.network_size} x {config.network_size} pixels inside the model")
    renormalized = [
        f"{name} {trained['mean']} and {trained['std']}"
        for part in ((config.ebc, config.au) if hasattr(config, "ebc") else (config,))
        for name, trained in zip(backbones_of(part), part.backbone_normalization or [], strict=False)
        if trained and not config.per_image_standardization
    ]
    if renormalized:
        steps.append(
            "Inside the model each backbone gets the mean and deviation that its pretrained weights were trained with "
            f"({', '.join(dict.fromkeys(renormalized))})"
        )
    if getattr(config, "mirrored", False):
        steps.append("Scores are those of the image and its mirror image together")
    return "".join(f". {step}" for step in steps)


def _prior(config) -> str:
    """The class frequencies that scores are calibrated to; nothing of a model that was not calibrated."""
    experts = getattr(config, "ebc", config)
    if not experts.calibration:
        return ""
    if config.prior is None:
        return "\nWhich class frequencies scores are calibrated to is unknown (before priors were recorded).\n"
    frequencies = ", ".join(f"{name} {prior:.4f}" for name, prior in config.prior.items())
    return (
        f"\nScores are calibrated to faces with these class frequencies (prior): {frequencies}. For faces with others, "
        "add logit(their\nfrequency) - logit(this one) to the log-odds of each expression; `label.py --prior` does.\n"
    )


def _fitted(config) -> str:
    """What was decided on validation."""
    if config.model_type != "affectnet_plus_soft_fer":
        parts = [config.ebc, config.au] if hasattr(config, "ebc") else [config]
        best_by = {record.get("metric_for_best_model") for part in parts for record in part.training.values()}
        return "the calibration was fitted" + " and the epochs were chosen" * bool(best_by - {None, "last"})
    best_by = config.training.get("all", {}).get("metric_for_best_model")
    return f"the epoch was chosen, by {best_by}" if best_by else ""


def _units(config) -> str:
    units = getattr(config, "action_units", {})
    return "; ".join(f"{name} {' '.join(map(str, units[name]))}" for name in config.expressions if name in units)


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
        rows.append(f"| {name} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + " |")
    settings = config.training.get(config.expressions[0], {})
    lines = _lines({key: value for key, value in settings.items() if key not in ("auroc", "average_precision")})
    return "\n".join(["On validation, one-vs-rest:", "", *rows, "", f"Settings ({config.expressions[0]}):", "", lines])


def _lines(settings: dict) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in settings.items())


def _training_of_fused(config) -> str:
    rows = ["| expression | weight of the EBC |", "|---|---|"]
    rows += [f"| {name} | {config.ebc_weights.get(name, 0.5):.3f} |" for name in config.expressions]
    return "\n\n".join(["\n".join(rows), "### EBC", _training(config.ebc), "### AU experts", _training(config.au)])
