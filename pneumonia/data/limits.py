"""Which images are refused, and how that is said."""

LARGEST_PIXELS = 64_000_000
"""Pixels of the largest image we decode; the largest radiographs have about 20 million."""

SMALLEST_SIDE = 16
"""Pixels of the shortest side we accept: less is a placeholder, not a radiograph."""


class UnreadableImageError(ValueError):
    """The bytes are not an image we can use; the message is the reason."""


class DecoderMissingError(UnreadableImageError):
    """The bytes may be an image we can use, but what decodes them is not installed."""


def check_size(width: int, height: int) -> None:
    """Refuse a size that no radiograph has.

    Raises:
        UnreadableImageError: The image is too large, or too small.
    """
    if width * height > LARGEST_PIXELS:
        raise UnreadableImageError(
            f"{width}×{height} pixels, over the limit of {LARGEST_PIXELS // 10**6} million"
        )
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImageError(f"{width}×{height} pixels, too small for a radiograph")
