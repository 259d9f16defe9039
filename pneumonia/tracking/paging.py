"""Reading all pages of what MLflow answers page by page."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mlflow.store.entities import PagedList

T = TypeVar("T")


def search_all(search: Callable[..., PagedList[T]], *arguments: Any, **options: Any) -> Iterator[T]:
    """Yield the results of all pages of a search.

    Args:
        search: A ``search_*`` method of ``MlflowClient``; each answers with one page only.
        arguments: Positional arguments of the search.
        options: Its keyword arguments, such as ``order_by`` or ``max_results``, the page's size.

    Yields:
        Results in the order of the search.
    """
    token: str | None = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
