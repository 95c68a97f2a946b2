"""Models of each kind, small and random."""

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import (
    AUConfig,
    AUForImageClassification,
    EBCConfig,
    EBCForImageClassification,
    FusedConfig,
    FusedForImageClassification,
    SoftFerConfig,
    SoftFerForImageClassification,
    SoftLabelModel,
)

KINDS = ["ebc", "au", "fused", "soft_fer"]
FITTED = {"temperature": 2.0, "log_odds_shift": 1.0}


def model_of(kind: str, backbone: str = "test_vit", size: int = 32, **settings) -> SoftLabelModel:
    """Measured and calibrated, as they come out of training."""
    settings = {"image_size": size, "evaluation": {"data": "D", "rows": 9, "accuracy": 0.9}} | settings
    of_experts = {"calibration": {name: dict(FITTED) for name in EXPRESSIONS}}
    of_experts["training"] = {name: {"auroc": 0.9} for name in EXPRESSIONS}
    of_experts |= {key: settings[key] for key in ("image_size", "id2label") if key in settings}
    ebc, au = EBCConfig(backbones=[backbone], **of_experts), AUConfig(backbone=backbone, **of_experts)
    if kind == "ebc":
        return EBCForImageClassification(EBCConfig(**ebc.to_dict() | settings))
    if kind == "au":
        return AUForImageClassification(AUConfig(**au.to_dict() | settings))
    if kind == "fused":
        weights = dict.fromkeys(EXPRESSIONS, 0.3)
        settings = {"ebc": ebc.to_dict(), "au": au.to_dict(), "ebc_weights": weights} | settings
        return FusedForImageClassification(FusedConfig(**settings))
    return SoftFerForImageClassification(SoftFerConfig(backbone=backbone, **settings))
