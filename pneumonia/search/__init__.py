"""Experiments: their files, the Optuna study over their space, and cross-validation."""
