"""The only place that talks to MLflow: the store, runs, models and their registry."""
