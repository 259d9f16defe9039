"""Initial weights: torchvision's official ones, or a local state dict."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torch import nn

from pneumonia.errors import UsageError, WeightsError
from pneumonia.networks.registry import Network

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

NONE, IMAGENET = "none", "imagenet"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(network: nn.Module, entry: Network, weights: str) -> list[str]:
    """Give a network its initial weights, in place.

    Args:
        network: The network, randomly initialised.
        entry: Its registry entry.
        weights: ``none`` to leave it so, ``imagenet`` for torchvision's official weights, or the
            path of a state dict file.

    Returns:
        What did not match, in words; the head is left random when its shape differs.

    Raises:
        UsageError: The network has no official weights, or there is no such file.
        WeightsError: The weights cannot be fetched or read, or do not belong to this network.
    """
    if weights == NONE:
        return []
    if weights == IMAGENET:
        given = official_weights(entry)
        source = str(entry.official)
    else:
        given = read_state_dict(Path(weights))
        source = weights
    return _fill(network, given, entry.head, source)


def official_weights(entry: Network) -> Mapping[str, Any]:
    """Torchvision's official weights, from its cache or downloaded and checked by their hash.

    Raises:
        UsageError: The network has none.
        WeightsError: They cannot be downloaded, or what came is not what was published.
    """
    if entry.official is None:
        raise UsageError("there are no ImageNet weights for this network: use --weights none")
    official = _published(entry.official)
    try:
        state: Mapping[str, Any] = official.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash is wrong
        file = official_file(entry.official)
        raise WeightsError(
            f"cannot download the ImageNet weights ({error}): fetch {official.url} on a machine "
            f"that can, and put it at {str(file)!r} or pass it as --weights FILE"
        ) from None
    return state


def official_url(name: str) -> str:
    """Where torchvision fetches official weights from, such as ``ResNet34_Weights.DEFAULT``."""
    return str(_published(name).url)


def _published(name: str) -> "WeightsEnum":
    from torchvision import models  # takes as long to import as torch itself

    return models.get_weight(name)


def official_file(name: str) -> Path:
    """Where torch keeps official weights on this machine, fetched or not yet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(official_url(name)).path).name


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a state dict, bare or within the dictionary that training scripts save.

    Prefixes of DataParallel, ``torch.compile`` and Lightning are removed from its keys.

    Raises:
        UsageError: There is no such file.
        WeightsError: The file is not a plain state dict.
    """
    if not path.is_file():
        raise UsageError(
            f"no weights file {str(path)!r}: give 'imagenet', 'none' or the path of a state dict"
        )
    advice = "save it with torch.save(network.state_dict(), path)"
    if not path.stat().st_size:
        raise WeightsError(f"{str(path)!r} is empty: {advice}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except Exception as error:  # what unpickling any bytes may raise
        raise WeightsError(f"{str(path)!r} is not a state dict of tensors: {advice}") from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{str(path)!r} holds no state dict: {advice}")
    return {_without_prefixes(str(key)): tensor for key, tensor in state.items()}


def _without_prefixes(key: str) -> str:
    """Remove what DataParallel, torch.compile and Lightning put before a parameter's name."""
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), ""):
        key = key.removeprefix(prefix)
    return key


def _fill(network: nn.Module, given: Mapping[str, Any], head: str, source: str) -> list[str]:
    own = network.state_dict()
    remarks = []
    fitting = {}
    for key, tensor in given.items():
        if key not in own:
            remarks.append(f"{key}: not in the network")
        elif not isinstance(tensor, torch.Tensor):
            remarks.append(f"{key}: not a tensor")
        elif tensor.ndim == 4 and tensor.shape[1] == 1 and _over_channels(tensor, own[key]):
            fitting[key] = tensor.expand_as(own[key]) / own[key].shape[1]
            remarks.append(f"{key}: 1 input channel there, spread over {own[key].shape[1]}")
        elif tensor.shape != own[key].shape:
            theirs, ours = tuple(tensor.shape), tuple(own[key].shape)
            fate = "head left random" if key.startswith(head) else "left random"
            remarks.append(f"{key}: {theirs} there, {ours} here; {fate}")
        else:
            fitting[key] = tensor
    remarks += [f"{key}: not in the weights, left random" for key in own if key not in given]
    body = [key for key in own if not key.startswith(head)]
    if sum(key in fitting for key in body) * 2 < len(body):
        raise WeightsError(
            f"{source!r} does not fit this network: {sum(key in fitting for key in body)} of "
            f"{len(body)} tensors match, for instance {remarks[0]}"
        )
    network.load_state_dict({**own, **fitting})
    return remarks


def _over_channels(kernel: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether shapes (out, in, h, w) are alike but for ours having three input channels, RGB."""
    return own.shape[1] == 3 and kernel.shape == (own.shape[0], 1, *own.shape[2:])
