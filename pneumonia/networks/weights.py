"""Initial weights: torchvision's official ones, or a local state dict."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision import models

from pneumonia.errors import UsageError, WeightsError
from pneumonia.networks.registry import Network

NONE, IMAGENET = "none", "imagenet"


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
    official = models.get_weight(entry.official)
    try:
        state: Mapping[str, Any] = official.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash is wrong
        place = official_place(entry.official)
        raise WeightsError(
            f"cannot download the ImageNet weights ({error}): fetch {official.url} on a machine "
            f"that can, and put it at {str(place)!r} or pass it as --weights FILE"
        ) from None
    return state


def official_url(name: str) -> str:
    """Where torchvision fetches official weights from, such as ``ResNet34_Weights.DEFAULT``."""
    return str(models.get_weight(name).url)


def official_place(name: str) -> Path:
    """Where torch keeps official weights on this machine, fetched or not yet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(official_url(name)).path).name


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a state dict, also one wrapped as ``state_dict`` or saved from DataParallel.

    Raises:
        UsageError: There is no such file.
        WeightsError: The file is not a plain state dict.
    """
    if not path.is_file():
        raise UsageError(
            f"no weights file {str(path)!r}: give 'imagenet', 'none' or the path of a state dict"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{str(path)!r} is not a state dict of tensors ({str(error).splitlines()[0]}): "
            "save it with torch.save(network.state_dict(), path)"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{str(path)!r} holds no state dict: save network.state_dict()")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def _fill(network: nn.Module, given: Mapping[str, Any], head: str, source: str) -> list[str]:
    own = network.state_dict()
    remarks = []
    fitting = {}
    for key, tensor in given.items():
        if key not in own:
            remarks.append(f"{key}: not in the network")
        elif not isinstance(tensor, torch.Tensor):
            remarks.append(f"{key}: not a tensor")
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
