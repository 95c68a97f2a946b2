"""Configuration of the fused experts: EBC and AU experts in one model."""

from typing import cast

from huggingface_hub.dataclasses import strict

from .configuration_au import AUConfig
from .configuration_ebc import EBCConfig
from .configuration_soft_label import INPUT_SETTINGS, SoftLabelConfig


@strict
class FusedConfig(SoftLabelConfig):
    r"""
    ebc (`EBCConfig`), au (`AUConfig`):
        The two models, of the same expressions and the same input.
    ebc_weights (`dict[str, float]`):
        Per expression the share of the EBC's score in the fused one, 0 to 1, fitted on validation; 0.5 without an
        entry. How the two are fused is affectnet-plus's own choice; the paper's way is not known here.
    tta (`bool`):
        Test-time augmentation: log-odds of both models are the mean of those of the image and of its horizontal flip,
        at twice the time.
    calibration (`dict[str, dict]`):
        The two are calibrated each for itself, to the same class frequencies. Where their mixture shall be calibrated
        to others, per expression `log_odds_shift`, logit(`prior`) - logit(the experts' prior).

    The rest is `SoftLabelConfig`'s.
    """

    model_type = "affectnet_plus_fused"
    sub_configs = {"ebc": EBCConfig, "au": AUConfig}

    ebc: dict | EBCConfig | None = None
    au: dict | AUConfig | None = None
    ebc_weights: dict[str, float] | None = None
    tta: bool = False

    def __post_init__(self, **kwargs):
        self.ebc = _config(self.ebc, EBCConfig)
        self.au = _config(self.au, AUConfig)
        for key in ("expressions", *INPUT_SETTINGS):
            ebc, au = (list(v) if isinstance(v := getattr(c, key), tuple) else v for c in (self.ebc, self.au))
            if ebc != au:
                raise ValueError(f"The EBC has {key} {ebc}, the AU experts have {au}: train both alike to fuse them.")
        self.id2label = dict(self.ebc.id2label)
        for key in INPUT_SETTINGS:
            setattr(self, key, getattr(self.ebc, key))
        super().__post_init__(**kwargs)
        self.ebc_weights = dict(self.ebc_weights or {})
        if self.backbone_normalization:
            raise ValueError("backbone_normalization of a fused model is that of its ebc and au: give it there.")

    def adopt_labels(self) -> None:
        """As `SoftLabelConfig`, in both models as well."""
        super().adopt_labels()
        for config in self.experts:
            config.id2label = dict(self.id2label)
            config.adopt_labels()

    @property
    def experts(self) -> tuple[EBCConfig, AUConfig]:
        """The two, which `__post_init__` has made of dictionaries."""
        return cast(EBCConfig, self.ebc), cast(AUConfig, self.au)

    @property
    def prior_of_experts(self) -> dict[str, float] | None:
        """What both are calibrated to before `calibration` is applied to their mixture."""
        ebc, au = self.experts
        return ebc.prior if au.prior else None

    @property
    def prior(self) -> dict[str, float] | None:
        return super().prior or self.prior_of_experts


def _config(config, cls):
    return config if isinstance(config, cls) else cls(**(config or {}))
