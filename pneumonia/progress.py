"""What long computations report to: a callback, so that none of them prints anything itself."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is done, such as ``decoding``, and how many images of how many."""
