"""A registered model on new images: batch scoring, evaluation, explanation."""
