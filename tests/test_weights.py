"""Initial weights as people save them."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet34 as torchvision_resnet34

from pneumonia.errors import WeightsError
from pneumonia.networks.registry import NETWORKS
from pneumonia.networks.weights import load_weights, read_state_dict

ENTRY = NETWORKS["resnet34"]


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrapped_and_prefixed_state_dicts_are_read(
    wrapper: str, prefix: str, tmp_path: Path
) -> None:
    """Whatever a training script puts around it, the tensors come out under their own names."""
    state = {f"{prefix}fc.bias": torch.tensor([1.0, 2.0])}
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == ["fc.bias"]


def test_resnet34_is_torchvisions() -> None:
    """The same weights by the same names give the same logits, so official ones can be used."""
    network = ENTRY.build(64, 0.0).eval()
    theirs = torchvision_resnet34(num_classes=2).eval()
    theirs.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(network(images), theirs(images))


def test_a_first_convolution_of_one_channel_is_spread_over_three(tmp_path: Path) -> None:
    """On grey images the spread kernel answers as the kernel of one channel did, and it is said."""
    network = ENTRY.build(64, 0.0)
    state = network.state_dict()
    kernel = torch.randn(64, 1, 7, 7)
    torch.save({**state, "conv1.weight": kernel}, tmp_path / "w.pt")
    remarks = load_weights(network, ENTRY, str(tmp_path / "w.pt"))
    assert remarks == ["conv1.weight: 1 input channel there, spread over 3"]
    grey, spread = torch.randn(1, 1, 16, 16), network.state_dict()["conv1.weight"]
    torch.testing.assert_close(
        torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), spread),
        torch.nn.functional.conv2d(grey, kernel),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("content", [b"", b"epoch,loss\n1,0.5\n", b"some text\n", b"\x80\x02]."])
def test_other_files_are_refused_in_one_short_line(content: bytes, tmp_path: Path) -> None:
    """Text, CSV, empty files and other pickles end as our own error, without torch's advice."""
    file = tmp_path / "w.pt"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"save it with torch\.save") as refused:
        read_state_dict(file)
    assert len(str(refused.value)) < len(str(file)) + 120
