"""Which of some images a model was trained or tested on, by the list in the run that trained it."""

from dataclasses import dataclass

from pneumonia.data.dataset import Images
from pneumonia.data.image_roles import role_by_digest
from pneumonia.errors import TrackingError
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.runs import IMAGES, find_run, read_text

KIND_TAG = "trained_by"
"""Tag of a run that took over a trained network: the kind of the run that trained it."""


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What a model's run says of some images.

    Attributes:
        n_training: How many of them the model was trained on.
        n_test: How many of them tested it.
        table: The run's list of images; empty where it has none.
        kind: The kind of the run that trained it.
    """

    n_training: int = 0
    n_test: int = 0
    table: str = ""
    kind: str = ""


def find_known_images(model: LoadedModel, images: Images) -> KnownImages:
    """Look images up, by their content, in the list of those that a model was made with."""
    try:
        run = find_run(model.run_id or "")
    except TrackingError:  # it was deleted, or is in another store
        return KnownImages()
    # The images of a seed are listed in the parent run, that of all seeds.
    above = run.tags.get("mlflow.parentRunId")
    table = read_text(run.id, IMAGES) or (read_text(above, IMAGES) if above else "") or ""
    kind = run.tags.get(KIND_TAG) or run.tags.get("kind", "")
    # Each image for training or validation was trained on in some fold.
    trained_on = {"train", "validation"} if kind == "cross-validation" else {"train"}
    role_of = role_by_digest(table)
    roles = [role_of.get(file.digest, "") for file in images.files]
    return KnownImages(sum(role in trained_on for role in roles), roles.count("test"), table, kind)
