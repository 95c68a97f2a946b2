"""Soft labels: calibrated, fused, cross-fitted, combined with the human label, and written."""
