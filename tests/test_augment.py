"""Random changes to training images."""

import pytest
import torch

from pneumonia.data.augment import Augmentation, augment, draw_changes

STRONG = Augmentation(
    strength=1.5,
    crop=0.2,
    brightness=0.3,
    contrast=0.3,
    gamma=0.4,
    flip=0.5,
    blur=0.03,
    noise=0.1,
    border=0.2,
    border_grey=0.5,
    shading=0.5,
)
NONE = Augmentation(strength=0)


def noise(n: int = 5, side: int = 24) -> torch.Tensor:
    """Random images, uint8 (n, side, side)."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (n, side, side), dtype=torch.uint8, generator=generator)


def changes_of(seed: int, n: int = 5) -> torch.Tensor:
    return draw_changes(n, torch.Generator().manual_seed(seed))


def test_the_same_seed_makes_the_same_changes() -> None:
    """Changes are those that were drawn, and levels stay within the range."""
    first, again, other = (augment(noise(), changes_of(seed), STRONG) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 255


def test_strength_0_leaves_images_as_they_are() -> None:
    """No change but the flips, where they are asked for."""
    grey = noise()
    assert torch.equal(augment(grey, changes_of(1), NONE), grey.float())
    mirrored = augment(grey, changes_of(1), Augmentation(strength=0, flip=1))
    torch.testing.assert_close(mirrored, grey.flip(2).float(), atol=0.1, rtol=0)


def test_a_batch_is_augmented_as_each_image_alone_would_be() -> None:
    """An image's changes do not depend on the others of its batch."""
    grey, changes = noise(), changes_of(3)
    batch = augment(grey, changes, STRONG)
    for image, change, expected in zip(grey, changes.T, batch, strict=True):
        alone = augment(image.unsqueeze(0), change.unsqueeze(1), STRONG)
        torch.testing.assert_close(alone[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("crop", [0.08, 0.5])
def test_crops_keep_a_share_of_the_area_within_the_image(crop: float) -> None:
    """Coordinates drawn into the image tell which part of it is left."""
    n, side = 400, 64
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8)
    across = ramp.expand(n, side, side).contiguous()  # grey levels tell the column
    along = across.transpose(1, 2).contiguous()
    how = Augmentation(strength=0, crop=crop)
    widths, heights, lefts = [], [], []
    for images, sizes in ((across, widths), (along, heights)):
        cropped = augment(images, changes_of(4, n), how)
        low, high = cropped.amin(dim=(1, 2)), cropped.amax(dim=(1, 2))
        sizes.append((high - low) / 255 * side / (side - 1))
        lefts.append(low / 255)
    width, height = widths[0], heights[0]
    area, aspect = width * height, width / height
    assert area.min() >= 0.85 * crop
    assert area.max() <= 1.03
    assert area.mean() == pytest.approx((1 + crop) / 2, abs=0.06)
    assert aspect.min() > 0.70
    assert aspect.max() < 1.42
    # The crops lie everywhere: at either border, and in between.
    assert all(left.min() < 0.05 for left in lefts)
    assert all(left.max() > 0.25 for left in lefts)


def test_gamma_moves_the_middle_and_keeps_black_and_white() -> None:
    """Black stays black and white stays white, whatever gamma is drawn."""
    grey = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(6, 3, 1)
    how = Augmentation(strength=1, brightness=0, contrast=0, gamma=0.5)
    changes = changes_of(5, 6)
    changes[:9] = 0.5  # nothing is moved
    changed = augment(grey, changes, how)
    torch.testing.assert_close(changed[:, :, 0], torch.zeros(6, 3), atol=0.5, rtol=0)
    torch.testing.assert_close(changed[:, :, 2], torch.full((6, 3), 255.0), atol=0.5, rtol=0)
    assert (changed[:, 1, 1] - 128).abs().max() > 5


def test_every_other_image_is_blurred_and_keeps_its_mean() -> None:
    grey = noise(n=400)
    blurred = augment(grey, changes_of(6, 400), Augmentation(strength=0, blur=0.05))
    loss = 1 - blurred.std(dim=(1, 2)) / grey.float().std(dim=(1, 2))
    assert ((loss > 0.01).float().mean() - 0.5).abs() < 0.1
    assert loss.min() > -1e-3
    assert loss.max() > 0.5
    torch.testing.assert_close(
        blurred.mean(dim=(1, 2)), grey.float().mean(dim=(1, 2)), atol=4, rtol=0
    )


def test_noise_has_the_deviation_that_was_drawn() -> None:
    grey = torch.full((400, 24, 24), 128, dtype=torch.uint8)
    noisy = augment(grey, changes_of(7, 400), Augmentation(strength=0, noise=0.1))
    deviation = noisy.std(dim=(1, 2))
    assert ((deviation > 0.1).float().mean() - 0.5).abs() < 0.1
    assert 23 < deviation.max() < 28  # a tenth of 255
    assert noisy[deviation > 5].mean() == pytest.approx(128, abs=0.5)


def test_shading_is_a_slope_in_any_direction_and_no_steeper_than_asked_for() -> None:
    grey = torch.full((400, 41, 41), 100, dtype=torch.uint8)
    shaded = augment(grey, changes_of(8, 400), Augmentation(strength=0, shading=0.4)) / 100
    torch.testing.assert_close(shaded[:, 20, 20], torch.ones(400))  # the middle
    right, below = shaded[:, 20, 40] - 1, shaded[:, 40, 20] - 1
    torch.testing.assert_close(shaded[:, 20, 0] - 1, -right)
    slopes = torch.hypot(right, below)
    assert 0.38 < slopes.max() <= 0.4001
    assert (slopes < 1e-3).float().mean() == pytest.approx(0.5, abs=0.1)  # every other one
    for one_side in (right, -right, below, -below):
        assert one_side.max() > 0.3


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_of_the_borders_is_of_any_grey(share: float) -> None:
    grey = torch.zeros(400, 40, 40, dtype=torch.uint8)
    how = Augmentation(strength=0, border=0.2, border_grey=share)
    levels = augment(grey, changes_of(8, 400), how).amax(dim=(1, 2))  # black images, grey borders
    # An image in sixteen has a border on no side.
    assert (levels > 1).float().mean() == pytest.approx(share * 15 / 16, abs=0.06)
    assert levels.max() > 250
    assert ((levels > 50) & (levels < 200)).any()


def test_borders_are_black_and_no_wider_than_asked_for() -> None:
    grey = torch.full((400, 40, 40), 200, dtype=torch.uint8)
    bordered = augment(grey, changes_of(8, 400), Augmentation(strength=0, border=0.2)).round()
    assert set(bordered.unique().tolist()) == {0, 200}
    assert (bordered[:, 8:32, 8:32] == 200).all()
    black = (bordered[:, 20, :] == 0).sum(dim=1)  # columns, at the left or the right
    assert black.max() > 8  # both sides
    # Either side has none in a half of the images, and less than half a column in some others.
    assert (black == 0).float().mean() == pytest.approx(0.25 * (1 + 1 / 16) ** 2, abs=0.08)
