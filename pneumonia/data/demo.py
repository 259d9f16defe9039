"""A demo set of synthetic X-rays, in the folders and under the names of chest_xray."""

import json
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pneumonia.data.demo_drawing import Anatomy, draw_xray
from pneumonia.errors import DataError
from pneumonia.progress import Progress

VERSION = 1
"""Raised when the same options draw other images: an older set is then not used for a new one."""

DEMO_FOLDER = f"demo-xrays-{VERSION}"
"""Name of the folder, beside the image caches, of the set that is made on the spot."""

_OPACITIES = "opacities.json"
_OPTIONS = "demo.json"
_IMAGES_PER_PATIENT = (0.50, 0.28, 0.14, 0.08)  # shares of patients with 1, 2, 3 and 4: mean 1.8
_SICK = 0.63
_TESTED = 0.20


def write_demo_set(
    folder: Path,
    *,
    patients: int = 560,
    size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> bool:
    """Write a synthetic data set laid out and named like the published chest_xray set.

    ``folder`` holds ``train``, ``val`` and ``test``, each with ``NORMAL`` and ``PNEUMONIA``, and
    ``opacities.json``: by relative path, where the opacities are. It appears whole or not at all,
    so several processes may write it at once. ``demo.json`` keeps the options: a set that was
    written with the same ones is left as it is.

    Args:
        folder: Where to write.
        patients: How many, at least 20; each has 1–4 images.
        size: Side of the images in pixels.
        seed: The same one gives the same bytes.
        progress: Called after each image with how many of how many are drawn.

    Returns:
        Whether it was written now; False where it was there already.

    Raises:
        DataError: ``folder`` holds something else, or a demo set with other options.
        ValueError: There are too few patients.
    """
    if patients < 20:
        raise ValueError(f"a demo set needs at least 20 patients, not {patients}")
    options = {"version": VERSION, "patients": patients, "size": size, "seed": seed}
    if folder.exists() and any(folder.iterdir()):
        _check_same(folder, options)
        return False
    plan = _plan(patients, seed)
    total = sum(map(len, plan))
    opacities: dict[str, list[dict[str, Any]]] = {}
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        for index, names in enumerate(plan):
            rng = np.random.default_rng([seed, 2, index])
            body = Anatomy.draw(rng)
            (unfinished / names[0]).parent.mkdir(parents=True, exist_ok=True)
            for name in names:
                sick, focal = "person" in name, 0.85 if "bacteria" in name else 0.15
                pixels, found = draw_xray(rng, size=size, anatomy=body, pneumonia=sick, focal=focal)
                Image.fromarray(pixels).save(unfinished / name, quality=90)
                opacities[name] = [asdict(opacity) for opacity in found]
                if progress is not None:
                    progress("drawing", len(opacities), total)
        (unfinished / _OPACITIES).write_text(json.dumps(opacities, indent=1), encoding="utf-8")
        (unfinished / _OPTIONS).write_text(json.dumps(options), encoding="utf-8")
        unfinished.rename(folder)
    except OSError:
        if not (folder / _OPTIONS).is_file():
            raise
        _check_same(folder, options)  # another process was faster
        return False
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _check_same(folder: Path, options: dict[str, int]) -> None:
    """Refuse a folder that holds anything but the demo set that would be written."""
    advice = "name another folder, or remove this one"
    try:
        present = json.loads((folder / _OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"folder {str(folder)!r} is there already and is no demo set of this version: {advice}"
        ) from None
    if present != options:
        listed = ", ".join(f"{key} {value}" for key, value in present.items())
        raise DataError(f"folder {str(folder)!r} holds another demo set ({listed}): {advice}")


def _plan(patients: int, seed: int) -> list[list[str]]:
    """Draw every patient's images: their paths within the set."""
    rng = np.random.default_rng([seed, 1])
    plan: list[list[str]] = []
    sick = round(_SICK * patients)
    for label, count in (("PNEUMONIA", sick), ("NORMAL", patients - sick)):
        tested, untaken = max(2, round(_TESTED * count)), min(8, max(2, count // 10))
        for index, number in enumerate((rng.permutation(2 * count)[:count] + 1).tolist()):
            images, other = int(rng.choice(4, p=_IMAGES_PER_PATIENT)) + 1, rng.random() < 0.4
            part = "test" if index < tested else "val" if untaken else "train"
            if part == "val":
                images = min(images, untaken)
                untaken -= images
            if label == "PNEUMONIA":
                stem = f"person{number}_{'virus' if other else 'bacteria'}_"
                serials = [str(4 * number + i) for i in range(images)]  # no two patients share one
            else:
                stem = f"{'IM' if other else 'NORMAL2-IM'}-{number:04d}-"
                serials = [f"{i + 1:04d}" for i in range(images)]
            plan.append([f"{part}/{label}/{stem}{serial}.jpeg" for serial in serials])
    return plan
