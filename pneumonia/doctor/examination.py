"""The whole examination, place by place."""

from collections.abc import Iterator

from pneumonia.doctor.findings import Mark, Remark, Section
from pneumonia.doctor.installation import look_at_installation
from pneumonia.doctor.left_caches import look_at_caches
from pneumonia.doctor.left_runs import look_at_runs
from pneumonia.doctor.left_states import look_at_states
from pneumonia.doctor.left_trials import look_at_studies
from pneumonia.doctor.stores import look_at_stores
from pneumonia.errors import TrackingError


def examine(tracking_uri: str | None = None, storage: str = "") -> Iterator[Section]:
    """Look at the installation and at what was left behind.

    A section is made once the one before it was told, and its leftovers mended: what became of
    trials decides about their runs, and what became of runs about what is kept for them.

    Args:
        tracking_uri: As given by the user, or None.
        storage: Optuna storage URL; empty is ``optuna.db`` in the working directory.
    """
    yield look_at_installation()
    stores = look_at_stores(tracking_uri, storage)
    yield stores.section
    if stores.studies is not None:
        yield look_at_studies(stores.studies, storage)
    try:
        if stores.tracking_uri:
            yield look_at_runs()
        yield look_at_states(stores.tracking_uri)
    except TrackingError as error:
        yield Section("Runs", [Remark(Mark.WRONG, str(error))])
    yield look_at_caches()
