"""The first layer that makes exposures alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.data.decode import network_input
from pneumonia.networks.registry import NETWORKS
from pneumonia.networks.standardise import Standardise


def _xray(seed: int = 0) -> torch.Tensor:
    """Grey levels 60–180 (1, 32, 32), none of them black or white, however they are exposed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 32, 32, generator=generator) * 120 + 60


@given(contrast=st.floats(0.3, 1.25), brightness=st.floats(-10, 20))
def test_brightness_and_contrast_make_no_difference(contrast: float, brightness: float) -> None:
    grey = _xray()
    exposed = grey * contrast + brightness
    layer = Standardise()
    torch.testing.assert_close(
        layer(network_input(exposed)), layer(network_input(grey)), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("level", [0.0, 255.0])
def test_a_black_or_white_border_makes_no_difference_inside(level: float) -> None:
    grey = _xray()
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    bordered = torch.full_like(grey, level)
    bordered[inside[1:]] = grey[inside[1:]]
    layer = Standardise()
    torch.testing.assert_close(
        layer(network_input(bordered))[inside],
        layer(network_input(grey[inside[1:]].contiguous())),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.parametrize("level", [0.0, 2.0, 100.0, 255.0])
def test_an_even_image_stays_finite(level: float) -> None:
    standard = Standardise()(network_input(torch.full((2, 32, 32), level)))
    assert standard.shape == (2, 3, 32, 32)
    assert standard.isfinite().all()
    assert standard.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_it_where_it_is_asked_for_under_the_same_names(name: str) -> None:
    """So weights can be exchanged, and only one of the two sees a difference in exposure."""
    torch.manual_seed(0)
    plain, standard = (NETWORKS[name].build(32, 0.0, flag).eval() for flag in (False, True))
    standard.load_state_dict(plain.state_dict())
    pair = network_input(torch.cat([_xray(), _xray() * 0.5]))
    with torch.inference_mode():
        seen, hidden = plain(pair), standard(pair)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    torch.testing.assert_close(hidden[0], hidden[1], atol=1e-3, rtol=0)
