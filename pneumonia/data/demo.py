"""Synthetic chest radiographs, for trying everything out without a data set.

Bodies are drawn from formulas over the picture's coordinates: soft tissue, air, bones and vessels
add up to an attenuation, and a film curve turns that into grey levels. Pneumonia replaces air by
fluid, so it brightens lungs and blurs borders as it does in a real film. Exposure, markers, leads
and noise are drawn without regard to the class, lest they give it away.
"""

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pneumonia.errors import DataError

_Field = NDArray[np.float32]
_OPACITIES = "opacities.json"
_IMAGES_PER_PATIENT = (0.50, 0.28, 0.14, 0.08)  # shares of patients with 1, 2, 3 and 4: mean 1.8
_SICK = 0.63
_TESTED = 0.20
_FOCAL = {"bacteria": 0.85, "virus": 0.15, "NORMAL2-IM": 0.5, "IM": 0.5}


@dataclass(frozen=True)
class Opacity:
    """Where a lung is denser than it should be.

    Attributes:
        centre_x: Distance from the picture's left edge, as a fraction of the side, 0–1.
        centre_y: Distance from the top edge, likewise.
        radius: Where it has faded to about a third, likewise.
        kind: ``focal`` or ``diffuse``.
    """

    centre_x: float
    centre_y: float
    radius: float
    kind: str


@dataclass(frozen=True)
class Anatomy:
    """A patient's body. Lengths are fractions of the picture's side.

    Attributes:
        width: Half the rib cage's width.
        apex: Height of the lungs' tips, from the top.
        base: Height of the diaphragm's domes, from the top.
        fat: Soft tissue outside the ribs.
        heart: Size of the heart; 1 is usual.
        spacing: From one rib to the next.
        air: Density that air takes away from the chest, 0–1.
        arm: Angle of the arms, in radians: below 0 raised, above 0 lowered.
        details: Seed of everything else, such as the vessels' course.
    """

    width: float
    apex: float
    base: float
    fat: float
    heart: float
    spacing: float
    air: float
    arm: float
    details: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """Draw a patient's body at random."""
        return cls(
            width=rng.uniform(0.33, 0.42),
            apex=rng.uniform(0.10, 0.20),
            base=rng.uniform(0.70, 0.82),
            fat=rng.uniform(0.03, 0.09),
            heart=rng.uniform(0.9, 1.2),
            spacing=rng.uniform(0.074, 0.09),
            air=rng.uniform(0.34, 0.44),
            arm=rng.uniform(-1.1, 1.2),
            details=int(rng.integers(2**32)),
        )


def radiograph(
    rng: np.random.Generator,
    *,
    size: int,
    anatomy: Anatomy,
    pneumonia: bool,
    focal: float = 0.5,
) -> tuple[NDArray[np.uint8], list[Opacity]]:
    """Take one radiograph of a patient.

    The same generator state gives the same position, exposure and noise with and without pneumonia.

    Args:
        rng: Source of all randomness but the body's.
        size: Side of the picture in pixels.
        anatomy: The patient.
        pneumonia: Whether there is one.
        focal: Probability that it is a focal rather than a diffuse one, 0–1.

    Returns:
        Grey levels 0–255, uint8 (size, size), and where the opacities are (none if healthy).
    """
    pose, illness, film = (np.random.default_rng(seed) for seed in rng.integers(2**32, size=3))
    u, v = _coordinates(pose, size)
    solid, lung = _body(u, v, anatomy)
    opacities: list[Opacity] = []
    fluid = np.zeros_like(lung)
    if pneumonia:
        opacities, fluid = _infect(illness, lung, focal=illness.random() < focal)
    attenuation = solid - anatomy.air * lung * (1 - fluid)
    return _expose(film, attenuation), opacities


def _coordinates(rng: np.random.Generator, size: int) -> tuple[_Field, _Field]:
    """Draw a position; return each pixel's distance from the spine and from the top (size, size)."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    angle, scale = rng.normal(0, 0.035), rng.normal(1, 0.04)
    cos, sin = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    left, up = rng.normal(0, 0.02, size=2).astype(np.float32)
    x, y = steps[None, :], steps[:, None]
    return cos * x - sin * y + left, sin * x + cos * y + up + np.float32(0.5)


def _body(u: _Field, v: _Field, body: Anatomy) -> tuple[_Field, _Field]:
    """Attenuation of all but air, and the share of the chest's depth that is lung, 0–1."""
    rng = np.random.default_rng(body.details)
    side, left, height = np.abs(u), u > 0, v - body.apex
    down = np.clip(height / (body.base - body.apex), 0, 1.25)
    cage = body.width * np.sqrt(1 - np.clip(1 - down, 0, 1) ** 2.3) * (1.02 - 0.04 * down) + 1e-3
    across = np.minimum(side / cage, 0.999)

    # Lungs: inside the cage, outside the mediastinum and the heart, above the diaphragm.
    heart_y = v - body.base + rng.uniform(0.09, 0.13)
    heart_x = u - rng.uniform(0.02, 0.06)
    tilted_x, tilted_y = 0.8 * heart_x + 0.6 * heart_y, 0.8 * heart_y - 0.6 * heart_x
    heart = np.hypot(tilted_x / (0.19 * body.heart), tilted_y / (0.135 * body.heart))
    bulges = rng.uniform(0, 0.022, size=4).astype(np.float32)
    knob = np.exp(-(((height - 0.17) / 0.05) ** 2)) * np.where(left, bulges[0], bulges[1])
    root = np.exp(-(((height - 0.31) / 0.06) ** 2)) * np.where(left, bulges[2], bulges[3])
    middle = rng.uniform(0.05, 0.08) + knob + root + 0.02 * down
    dome = body.base + np.where(left, rng.uniform(0.0, 0.03), rng.uniform(-0.03, 0.0))
    dome += 0.10 * ((side - 0.42 * body.width) / (0.58 * body.width)) ** 2 + 0.05 * across**6
    lung = _step((cage - 0.014 - side) / 0.016) * _step((side - middle) / 0.025)
    lung *= _step((dome - v) / 0.013) * (1 - 0.9 * _step((1 - heart) / 0.12))

    # Soft tissue: the trunk widens from neck to shoulders and blends into the arms.
    trunk = 0.11 + (body.width + body.fat - 0.11) * _step((height + 0.02) / 0.16)
    shoulder = (body.width - 0.05, body.apex + 0.08)
    elbow = (shoulder[0] + 0.5 * np.cos(body.arm), shoulder[1] + 0.5 * np.sin(body.arm))
    limb = _distance(side, v, shoulder, elbow)
    slope = _distance(side, v, (0.06, body.apex - 0.10), shoulder)
    solid = (0.70 * _round(side / trunk)) ** 4 + (0.46 * _round(limb / 0.085)) ** 4
    solid = (solid + (0.50 * _round(slope / 0.075)) ** 4) ** 0.25
    skin = _step((solid - 0.2) / 0.2)
    solid += 0.10 * _step((v - dome) / 0.02) * _step((trunk - side) / 0.05)
    solid += 0.07 * np.exp(-((u / 0.11) ** 2)) + 0.04 * _step((1 - heart) / 0.3)
    gas = np.hypot((u - 0.17) / 0.10, (v - body.base - 0.12) / rng.uniform(0.03, 0.06))
    solid -= rng.uniform(0, 0.16) * _step((1 - gas) / 0.25) * _step((v - dome - 0.02) / 0.01)

    # Ribs: one formula for all, whose whole values are their middles.
    ring, arc = 1 - np.sqrt(1 - across**2), rng.uniform(0.20, 0.27)
    behind = (height - arc * ring + 0.06 * across - 0.05 * across**2) / body.spacing
    front = (height - arc - 0.20 * (1 - across)) / (1.15 * body.spacing)
    bone = 0.085 * _rib(behind) * (0.75 + 0.7 * ring) * _step((side - 0.04) / 0.02)
    bone *= behind > -0.4
    bone += 0.05 * _rib(front) * _step((across - 0.5) / 0.3) * (front > -0.4)
    bone *= _step((cage + 0.008 - side) / 0.01)
    bone += 0.06 * np.exp(-(((side - cage + 0.004) / 0.01) ** 2)) * _step((down - 0.15) / 0.1)
    bone *= 1 - 0.75 * _step((v - dome) / 0.03)
    # Spine, with discs between vertebrae, and the windpipe before it.
    disc = np.cos(v * np.float32(2 * np.pi / (0.8 * body.spacing)))
    bone += (0.06 + 0.018 * disc) * _step((0.042 + 0.003 * disc - side) / 0.012)
    solid -= 0.06 * np.exp(-((u / 0.018) ** 2)) * _step((0.24 - height) / 0.04)
    collar = height - 0.06 + rng.uniform(0.1, 0.3) * side - 0.02 * np.sin(side * 18)
    bone += (
        0.11 * _shaft(collar / 0.014) * _step((side - 0.045) / 0.01) * _step((0.29 - side) / 0.02)
    )
    head = np.hypot(side - shoulder[0], v - shoulder[1]) / 0.042
    bone += 0.14 * np.maximum(_shaft(limb / 0.026), 0.8 * _step((1 - head) / 0.2))
    blade = _distance(side, v, shoulder, (0.72 * body.width, body.apex + 0.36))
    bone += 0.04 * _shaft(blade / 0.012)

    # Vessels branch from the hila: noise over angle and distance around them, bent at random.
    hilum_x, hilum_y = side - 0.08, height - 0.30
    bend = _noise(rng, len(u), 14)
    far = np.hypot(hilum_x, hilum_y)
    turn = np.arctan2(hilum_y, hilum_x) * 8 + bend + np.where(left, 32, 92)
    course = rng.normal(size=(16, 128)).astype(np.float32)
    branches = ndimage.map_coordinates(course, [far * 30, turn], order=1, mode="wrap")
    vessels = np.clip(1 - 1.6 * np.abs(branches), 0, 1) * np.exp(-far / 0.16) * _step(far / 0.08)
    vessels += 0.5 * np.exp(-((far / 0.05) ** 2)) * (1 + 0.5 * bend)
    solid += rng.uniform(0.8, 1.2) * bone * skin + rng.uniform(0.07, 0.15) * vessels * lung
    return solid, lung


def _infect(rng: np.random.Generator, lung: _Field, *, focal: bool) -> tuple[list[Opacity], _Field]:
    """Draw opacities and the share of the air that they replace by fluid, 0–1 (size, size)."""
    size = len(lung)
    spots = np.flatnonzero(lung > 0.8)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    ragged = _noise(rng, size, 9) + 0.5 * _noise(rng, size, 22)
    air = np.ones_like(lung)
    found = []
    for _ in range(rng.integers(1, 3) if focal else rng.integers(2, 6)):
        y, x = divmod(int(rng.choice(spots)), size)
        radius = rng.uniform(0.05, 0.12) if focal else rng.uniform(0.10, 0.18)
        strength = rng.uniform(0.3, 0.9) if focal else rng.uniform(0.2, 0.55)
        away = np.hypot(steps[None, :] - steps[x], steps[:, None] - steps[y]) / np.float32(radius)
        blob = np.exp(-((away * (1 + 0.22 * (ragged - ragged[y, x]))) ** 2))
        if not focal:
            blob *= np.clip(0.75 + 0.35 * (ragged - ragged[y, x]), 0, 1.3)
        air *= 1 - np.clip(strength * blob, 0, 1)
        kind = "focal" if focal else "diffuse"
        found.append(Opacity(float(steps[x]), float(steps[y]), float(radius), kind))
    return found, 1 - air


def _expose(rng: np.random.Generator, attenuation: _Field) -> NDArray[np.uint8]:
    """Turn attenuation into a film: exposure, markers, leads, falloff towards corners, noise."""
    size = len(attenuation)
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    light = np.clip(attenuation / np.float32(0.95), 0.01, 1)
    target = rng.uniform(0.38, 0.60)
    light **= np.float32(np.log(target) / np.log(light.mean()))
    light = 0.5 + (light - 0.5) * np.float32(rng.uniform(0.8, 1.1))
    light *= 1 - np.float32(rng.uniform(0, 0.15)) * (steps[None, :] ** 2 + steps[:, None] ** 2) / 2
    light += _objects(rng, size) * np.maximum(1 - light, 0)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    grain = grain * np.float32(rng.uniform(0.002, 0.022))
    return (np.clip(light + grain, 0, 1) * 255).round().astype(np.uint8)


def _objects(rng: np.random.Generator, size: int) -> _Field:
    """Side markers, and tubes or leads now and then, as light 0–1 (size, size)."""
    picture = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.7:
        right = rng.random() < 0.8
        x, y = rng.uniform(0.02, 0.12), rng.uniform(0.02, 0.4)
        font = ImageFont.load_default(size * rng.uniform(0.07, 0.12))
        place = (2 * size * (x if right else 0.95 - x), 2 * size * y)
        pen.text(place, "R" if right else "L", fill=int(rng.integers(190, 256)), font=font)
    along = np.linspace(0, 1, 24)
    for _ in range(rng.choice(4, p=(0.65, 0.2, 0.1, 0.05))):
        knots = rng.uniform(0.05, 0.95, size=(4, 2))
        weights = np.stack(
            [(1 - along) ** 3, 3 * along * (1 - along) ** 2, 3 * along**2 * (1 - along), along**3]
        )
        path = [tuple(point) for point in (weights.T @ knots * 2 * size).tolist()]
        pen.line(path, fill=int(rng.integers(150, 230)), width=max(1, size // 90))
    drawn: _Field = np.asarray(picture.reduce(2), dtype=np.float32)
    return drawn / np.float32(255)


def _noise(rng: np.random.Generator, size: int, cells: int) -> _Field:
    """Smooth noise of about unit variance with that many bumps a side (size, size)."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(1.4)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _step(x: _Field) -> _Field:
    """Rise smoothly from 0 to 1 for x from -1 to 1."""
    t = np.clip(x * 0.5 + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _round(x: _Field) -> _Field:
    """Thickness of a rounded body at x radii from its axis, 1 to 0."""
    return np.sqrt(np.sqrt(np.clip(1 - x * x, 0, 1)))


def _shaft(x: _Field) -> _Field:
    """Density of a long bone at x radii from its axis: the rim is denser than the marrow."""
    x = np.abs(x)
    return _step((1 - x) / 0.25) * (0.65 + 0.5 * np.clip(x, 0, 1) ** 2)


def _rib(phase: _Field) -> _Field:
    """Density of ribs whose middles are at whole values of phase, 0–1."""
    return _shaft((phase - np.round(phase)) / 0.27)


def _distance(u: _Field, v: _Field, start: tuple[float, float], end: tuple[float, float]) -> _Field:
    """Distance from the segment between two points."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du * du + dv * dv), 0, 1)
    return np.hypot(u - start[0] - along * du, v - start[1] - along * dv)


@dataclass(frozen=True)
class _Patient:
    family: str
    number: int
    images: int
    part: str


def write_demo_set(
    folder: Path,
    *,
    patients: int = 560,
    size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a synthetic data set laid out and named like the published chest_xray set.

    ``folder`` holds ``train``, ``val`` and ``test``, each with ``NORMAL`` and ``PNEUMONIA``, and
    ``opacities.json``: by relative path, where the opacities are. It appears whole or not at all,
    so several processes may write it at once; one that is there already is left as it is.

    Args:
        folder: Where to write.
        patients: How many, at least 20; each has 1–4 images.
        size: Side of the images in pixels.
        seed: The same one gives the same bytes.
        progress: Told after each image how many are written, and of how many.

    Raises:
        DataError: ``folder`` holds something else.
        ValueError: There are too few patients.
    """
    if (folder / _OPACITIES).is_file():
        return
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"folder {str(folder)!r} is there already and is no demo set")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        _write(unfinished, _draw_patients(patients, seed), size, seed, progress)
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / _OPACITIES).is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw_patients(count: int, seed: int) -> list[_Patient]:
    """Draw who is in which split, in a fixed order."""
    if count < 20:
        raise ValueError(f"a demo set needs at least 20 patients, not {count}")
    rng = np.random.default_rng([seed, 1])
    sick = round(_SICK * count)
    drawn = []
    for class_count, families in (
        (sick, ("bacteria", "virus")),
        (count - sick, ("NORMAL2-IM", "IM")),
    ):
        numbers = rng.permutation(2 * class_count) + 1
        tested, validated = max(2, round(_TESTED * class_count)), min(8, max(2, class_count // 10))
        for i in range(class_count):
            images = int(rng.choice(4, p=_IMAGES_PER_PATIENT)) + 1
            part = "test" if i < tested else "val" if validated > 0 else "train"
            if part == "val":
                images = min(images, validated)
                validated -= images
            family = families[int(rng.random() < 0.4)]
            drawn.append(_Patient(family, int(numbers[i]), images, part))
    return drawn


def _write(
    folder: Path,
    patients: list[_Patient],
    size: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    total, done = sum(patient.images for patient in patients), 0
    opacities = {}
    for index, patient in enumerate(patients):
        rng = np.random.default_rng([seed, 2, index])
        anatomy = Anatomy.draw(rng)
        sick = patient.family in ("bacteria", "virus")
        place = folder / patient.part / ("PNEUMONIA" if sick else "NORMAL")
        place.mkdir(parents=True, exist_ok=True)
        for image in range(1, patient.images + 1):
            done += 1
            name = (
                f"person{patient.number}_{patient.family}_{done}.jpeg"
                if sick
                else f"{patient.family}-{patient.number:04d}-{image:04d}.jpeg"
            )
            pixels, found = radiograph(
                rng, size=size, anatomy=anatomy, pneumonia=sick, focal=_FOCAL[patient.family]
            )
            Image.fromarray(pixels).save(place / name, quality=90)
            key = (place / name).relative_to(folder).as_posix()
            opacities[key] = [asdict(opacity) for opacity in found]
            if progress is not None:
                progress(done, total)
    (folder / _OPACITIES).write_text(json.dumps(opacities, indent=1), encoding="utf-8")
