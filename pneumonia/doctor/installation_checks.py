"""Whether the installation works: versions, devices, and where everything comes from and goes."""

import os
import shutil
from pathlib import Path

import psutil
import torch
from torch import nn

from pneumonia.cores import available_cores
from pneumonia.data.cache import default_folder
from pneumonia.data.demo import DEMO_FOLDER
from pneumonia.doctor.checks import Mark, Remark, Section, format_size, size_of
from pneumonia.errors import UsageError
from pneumonia.files import state_folder
from pneumonia.networks.registry import NETWORKS
from pneumonia.networks.weights import official_file, official_url
from pneumonia.tracking.provenance import versions
from pneumonia.training.device import Engine, choose_engine

_PRECISIONS = ("fp32", "bf16", "fp16")


def check_installation() -> Section:
    """Check what does not depend on a server."""
    installed = ", ".join(f"{k.removeprefix('version.')} {v}" for k, v in versions().items())
    memory = psutil.virtual_memory()
    return Section(
        "Installation",
        [
            Remark(Mark.WRONG if "not installed" in installed else Mark.OK, installed),
            Remark(
                Mark.OK,
                f"{available_cores()} CPU cores, {format_size(memory.total)} of memory, "
                f"{format_size(memory.available)} free",
            ),
            *map(_device, _devices()),
            *_weights(),
            _demo_set(),
            _folder("image cache", default_folder(), "PNEUMONIA_CACHE"),
            _folder("state of runs", state_folder(), "PNEUMONIA_STATE"),
        ],
    )


def _devices() -> list[str]:
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _device(name: str) -> Remark:
    """Try every precision on a device."""
    remarks = []
    works = {precision: _why_not(name, precision) for precision in _PRECISIONS}
    for precision, reason in works.items():
        remarks.append(f"{precision} {'works' if not reason else 'does not (' + reason + ')'}")
        if precision == "bf16" and not reason:
            fast = choose_engine(name, "auto").precision == "bf16"
            remarks[-1] += ", fast" if fast else ", but slower than fp32"
    mark = Mark.WRONG if works["fp32"] else Mark.OK
    return Remark(mark, f"device {name}{_described(name)}: {'; '.join(remarks)}")


def _described(name: str) -> str:
    if not name.startswith("cuda"):
        return ""
    properties = torch.cuda.get_device_properties(name)
    return f" ({properties.name}, {format_size(properties.total_memory)})"


def _why_not(device: str, precision: str) -> str:
    """Take a small training step; the reason why it fails, or nothing."""
    try:
        engine = choose_engine(device, precision)
        gradient = _gradient_of_a_convolution(engine)
    except UsageError as error:
        return str(error).partition(":")[0]
    except RuntimeError as error:  # torch's own, such as a kernel that was not built
        return str(error).splitlines()[0]
    return "" if torch.isfinite(gradient).all() else "its gradient is not finite"


def _gradient_of_a_convolution(engine: Engine) -> torch.Tensor:
    convolution = nn.Conv2d(1, 4, 3).to(engine.device)
    grey = torch.rand(2, 1, 8, 8, device=engine.device)  # (B, 1, H, W)
    with engine.autocast():
        loss = convolution(grey).float().square().mean()
    loss.backward()
    assert convolution.weight.grad is not None
    return convolution.weight.grad


def _weights() -> list[Remark]:
    remarks = []
    for name, entry in NETWORKS.items():
        if entry.official is None:
            continue
        file = official_file(entry.official)
        if file.is_file():
            where = f"at {str(file)!r}, {format_size(size_of(file))}"
        else:
            where = f"not here; --weights imagenet fetches {official_url(entry.official)} to "
            where += repr(str(file))
        remarks.append(Remark(Mark.OK, f"ImageNet weights of {name}: {where}"))
    return remarks


def _demo_set() -> Remark:
    folder = default_folder() / DEMO_FOLDER
    where = "at" if folder.is_dir() else "not here; made on the spot at"
    return Remark(Mark.OK, f"demo X-rays: {where} {str(folder)!r}")


def _folder(what: str, folder: Path, variable: str) -> Remark:
    """Say how much a folder holds and may hold, and whether it can be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"allow it, or set {variable} to another folder"
        return Remark(Mark.WRONG, f"{what}: {str(folder)!r} cannot be written to: {remedy}")
    held = format_size(size_of(folder)) if folder.exists() else "nothing yet"
    free = format_size(shutil.disk_usage(existing).free)
    return Remark(Mark.OK, f"{what}: {str(folder)!r} holds {held}; {free} free on its disk")
