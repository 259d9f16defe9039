"""The whole examination, section by section."""

from collections.abc import Iterator

from pneumonia.doctor.cache_checks import DEFAULT_LIMIT, check_caches
from pneumonia.doctor.checks import Mark, Remark, Section
from pneumonia.doctor.installation_checks import check_installation
from pneumonia.doctor.run_checks import check_runs
from pneumonia.doctor.state_checks import check_states
from pneumonia.doctor.store_checks import check_location, check_stores
from pneumonia.doctor.trial_checks import check_studies
from pneumonia.errors import TrackingError


def examine(
    tracking_uri: str | None = None, storage: str = "", cache_limit: int = DEFAULT_LIMIT
) -> Iterator[Section]:
    """Look at the installation and at what was left behind.

    A section is made after the one before it was shown and fixed: the state of trials decides
    about their runs, and the state of runs about the files kept for them.

    Args:
        tracking_uri: As given by the user, or None.
        storage: Optuna storage URL; empty is ``optuna.db`` in the working directory.
        cache_limit: Bytes that all image caches may take together.
    """
    yield check_installation()
    yield from check_location(tracking_uri)
    stores = check_stores(tracking_uri, storage)
    yield stores.section
    if stores.studies is not None:
        yield check_studies(stores.studies, storage)
    try:
        if stores.tracking_uri:
            yield check_runs()
        yield check_states(stores.tracking_uri)
    except TrackingError as error:
        yield Section("Runs", [Remark(Mark.WRONG, str(error))])
    yield check_caches(cache_limit)
