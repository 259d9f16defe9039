"""Hyperparameter search: an Optuna study, its workers and its winner."""
