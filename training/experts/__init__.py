"""Experts: one network per expression, one-vs-rest, started warm, calibrated and saved."""

from .folder import best_epoch_by, expression_and_others, expression_figures, fit_to_data, save_expert
from .shared import train_shared
from .warm_start import plan_warm_starts, train_warm_starts, warm_start
