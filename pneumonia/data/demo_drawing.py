"""Synthetic chest radiographs, for trying everything out without a data set.

Soft tissue, air, bones and vessels are formulas over the picture's coordinates; they add up to an
attenuation, which a film curve turns into grey levels. Pneumonia replaces air by fluid. Exposure,
markers, leads and noise are drawn independently of the class, so that they do not reveal it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

_Field = NDArray[np.floating[Any]]  # (size, size), or what broadcasts to it


@dataclass(frozen=True)
class Opacity:
    """Where a lung is denser than it should be; lengths are fractions of the picture's side.

    Attributes:
        centre_x: Distance from the picture's left edge, 0–1.
        centre_y: Distance from the top edge, 0–1.
        radius: Where it has faded to about a third, 0–1.
        kind: ``focal`` or ``diffuse``.
    """

    centre_x: float
    centre_y: float
    radius: float
    kind: str


@dataclass(frozen=True)
class Anatomy:
    """A patient's body; lengths are fractions of the picture's side.

    Attributes:
        width: Half the rib cage's width.
        apex: Height of the lungs' tips, from the top.
        base: Height of the diaphragm's domes, from the top.
        arm: Angle of the arms, in radians: below 0 raised, above 0 lowered.
        air: Density that air takes away from the chest, 0–1.
        details: Seed of everything else, such as the vessels' course.
    """

    width: float
    apex: float
    base: float
    arm: float
    air: float
    details: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """Draw a patient's body at random."""
        lows, highs = (0.33, 0.10, 0.70, -1.1, 0.32), (0.42, 0.20, 0.82, 1.2, 0.44)
        width, apex, base, arm, air = rng.uniform(lows, highs).tolist()
        return cls(width, apex, base, arm, air, details=int(rng.integers(2**32)))


def draw_xray(
    rng: np.random.Generator, *, size: int, anatomy: Anatomy, pneumonia: bool, focal: float = 0.5
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
    angle, scale = pose.normal(0, 0.035), pose.normal(1, 0.04)
    left, up = pose.normal(0, 0.02, size=2).tolist()
    cos, sin = float(np.cos(angle) / scale), float(np.sin(angle) / scale)
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = steps[None, :], steps[:, None]
    solid, lung = _body(cos * x - sin * y + left, sin * x + cos * y + (up + 0.5), anatomy)
    opacities, air = _infect(illness, lung, focal) if pneumonia else ([], np.ones_like(lung))
    return _expose(film, solid - anatomy.air * lung * air), opacities


def _body(u: _Field, v: _Field, body: Anatomy) -> tuple[_Field, _Field]:
    """Draw a patient from the distances to the spine's line (u) and from the top (v).

    Returns:
        Attenuation of all but air, and the share of air in the chest's depth, 0–1.
    """
    rng = np.random.default_rng(body.details)
    draw: Callable[[float, float], float] = rng.uniform
    side, height = np.abs(u), v - body.apex
    right = _step(u / 0.05)  # of the picture; the patient's left
    down = np.clip(height / (body.base - body.apex), 0, 1.25)
    cage = body.width * np.sqrt(1 - np.clip(1 - down, 0, 1) ** 2) ** 1.1 + (0.008 - 0.02 * down)
    across = np.clip(side / np.maximum(cage, 0.001), 0, 0.999)

    heart_x, heart_y = u - draw(0.02, 0.06), v - body.base + draw(0.09, 0.13)
    long, short = 0.8 * heart_x + 0.6 * heart_y, 0.8 * heart_y - 0.6 * heart_x
    heart = np.hypot(long / 0.19, short / 0.135) / draw(0.9, 1.2)
    knob = (draw(0, 0.022) + draw(-0.01, 0.02) * right) * _bump((height - 0.17) / 0.05)
    root = (draw(0, 0.02) + draw(-0.01, 0.02) * right) * _bump((height - 0.31) / 0.06)
    middle = draw(0.05, 0.08) + knob + root + 0.02 * down
    dome = body.base - draw(0, 0.03) + draw(0, 0.05) * right + 0.05 * (across * across) ** 3
    dome += 0.10 * ((side - 0.42 * body.width) / (0.58 * body.width)) ** 2
    abdomen = _step((v - dome) / 0.02)
    lung = _step((cage - 0.014 - side) / 0.016) * _step((side - middle) / 0.025)
    lung *= _step((dome - v) / 0.013) * (1 - 0.9 * _step((1 - heart) / 0.12))

    trunk = 0.11 + (body.width + draw(0.03, 0.09) - 0.11) * _step((height + 0.02) / 0.16)
    shoulder = (body.width - 0.05, body.apex + 0.08)
    elbow = (shoulder[0] + 0.5 * np.cos(body.arm), shoulder[1] + 0.5 * np.sin(body.arm))
    limb = _distance(side, v, shoulder, elbow)
    slope = _distance(side, v, (0.06, body.apex - 0.10), shoulder)
    solid = 0.24 * np.maximum(1 - (side / trunk) ** 2, 0)
    solid += 0.045 * np.maximum(1 - (limb / 0.085) ** 2, 0)
    solid = np.sqrt(np.sqrt(solid + 0.062 * np.maximum(1 - (slope / 0.075) ** 2, 0)))
    skin = _step((solid - 0.2) / 0.2)
    solid += 0.10 * abdomen * _step((trunk - side) / 0.05)
    solid += 0.07 * _bump(u / 0.11) + 0.04 * _step((1 - heart) / 0.3)
    gas = np.hypot((u - draw(0.12, 0.2)) / draw(0.04, 0.12), (v - body.base - 0.13) / 0.05)
    solid -= draw(0, 0.16) * _step((1 - gas) / 0.4) * _step((v - dome - 0.02) / 0.01)
    solid -= 0.06 * _bump(side / 0.018) * _step((0.24 - height) / 0.04)  # the windpipe

    # One formula draws all ribs: their middles are where its values are whole.
    ring, arc, spacing = 1 - np.sqrt(1 - across**2), draw(0.20, 0.27), draw(0.076, 0.092)
    behind = (height - arc * ring + 0.06 * across - 0.05 * across**2) / spacing
    front = (height - arc - 0.20 * (1 - across)) / (1.2 * spacing)
    bone = 0.09 * _ribs(behind) * (0.75 + 0.7 * ring) * _step((side - 0.04) / 0.02)
    bone += 0.035 * _ribs(front) * _step((across - 0.5) / 0.3)
    bone *= _step((cage + 0.008 - side) / 0.01)
    bone += 0.06 * _bump((side - cage + 0.004) / 0.01) * _step((down - 0.15) / 0.1)
    bone *= 1 - 0.75 * abdomen
    disc = np.cos(v * (2 * np.pi / (0.8 * spacing)))
    bone += (0.06 + 0.018 * disc) * _step((0.042 + 0.003 * disc - side) / 0.012)
    collar = height - 0.06 + draw(0.1, 0.3) * side - 0.02 * np.sin(side * 18)
    bone += 0.11 * _shaft(collar / 0.014) * _step((0.12 - np.abs(side - 0.17)) / 0.015)
    joint = _step((1 - np.hypot(side - shoulder[0], v - shoulder[1]) / 0.042) / 0.2)
    bone += 0.14 * np.maximum(_shaft(limb / 0.026), 0.8 * joint)
    blade = _distance(side, v, shoulder, (0.72 * body.width, body.apex + 0.36))
    bone += 0.04 * _shaft(blade / 0.012)
    solid += draw(0.8, 1.2) * bone * skin + draw(0.07, 0.15) * lung * _vessels(rng, u, height)
    return solid, lung


def _vessels(rng: np.random.Generator, u: _Field, height: _Field) -> _Field:
    """Branches from the lungs' roots: noise over angle and distance, bent at random."""
    x, y = np.abs(u) - 0.08, height - 0.30
    bend = _noise(rng, len(u), 14)
    far = np.hypot(x, y)
    turn = np.arctan2(y, x) * 8 + bend + 60 * (u > 0)
    course = rng.standard_normal((16, 128), dtype=np.float32)
    branches: _Field = ndimage.map_coordinates(course, [far * 30, turn], order=1, mode="grid-wrap")
    vessels: _Field = np.clip(1 - 1.6 * np.abs(branches), 0, 1) * np.exp(-far / 0.16)
    return vessels * _step(far / 0.08) + 0.5 * _bump(far / 0.05) * (1 + 0.5 * bend)


def _infect(rng: np.random.Generator, lung: _Field, focal: float) -> tuple[list[Opacity], _Field]:
    """Draw opacities and the share of the air that they leave, 0–1."""
    size, kind = len(lung), "focal" if rng.random() < focal else "diffuse"
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    ragged = _noise(rng, size, 9) + 0.5 * _noise(rng, size, 22)
    spots = np.flatnonzero(lung > 0.8)  # whose centre the lung's border does not hide
    found, air = [], np.ones_like(lung)
    for _ in range(rng.integers(1, 3) if kind == "focal" else rng.integers(2, 6)):
        y, x = divmod(int(rng.choice(spots)), size)
        radius = rng.uniform(0.05, 0.12) if kind == "focal" else rng.uniform(0.10, 0.18)
        strength = rng.uniform(0.3, 0.95) if kind == "focal" else rng.uniform(0.25, 0.65)
        away = np.hypot(steps[None, :] - steps[x], steps[:, None] - steps[y]) / radius
        rough = ragged - ragged[y, x]
        # Below, distances would shrink to nothing somewhere far off, and a blob appear there.
        blob = _bump(away * np.maximum(1 + 0.22 * rough, 0.6))
        if kind == "diffuse":
            blob *= np.clip(0.75 + 0.35 * rough, 0, 1.3)
        air *= 1 - np.clip(strength * blob, 0, 1)
        found.append(Opacity(float(steps[x]), float(steps[y]), radius, kind))
    return found, air


def _expose(rng: np.random.Generator, attenuation: _Field) -> NDArray[np.uint8]:
    """Turn attenuation into a film: exposure, darker corners, markers, leads, noise."""
    size = len(attenuation)
    squares = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    light = np.clip(attenuation / 0.95, 0.01, 1)
    # Automatic exposure: mean brightness is drawn, so that it tells nothing of the lungs.
    light **= float(np.log(rng.uniform(0.38, 0.60)) / np.log(light.mean()))
    light = 0.5 + (light - 0.5) * rng.uniform(0.8, 1.1)
    light *= 1 - rng.uniform(0, 0.08) * (squares[None, :] + squares[:, None])
    light += _objects(rng, size) * np.maximum(1 - light, 0)
    light += rng.uniform(0.002, 0.022) * rng.standard_normal((size, size), dtype=np.float32)
    levels: NDArray[np.uint8] = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    return levels


def _objects(rng: np.random.Generator, size: int) -> _Field:
    """Side markers, and tubes or leads now and then, as light 0–1."""
    full = 2 * size  # for smooth edges
    picture = Image.new("L", (full, full))
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.7:
        text, offset = ("R", 0.0) if rng.random() < 0.8 else ("L", 0.83)
        position = ((rng.uniform(0.02, 0.12) + offset) * full, rng.uniform(0.02, 0.4) * full)
        font = ImageFont.load_default(full * rng.uniform(0.035, 0.06))
        pen.text(position, text, fill=int(rng.integers(190, 256)), font=font)
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(rng.choice(4, p=(0.7, 0.2, 0.07, 0.03))):
        a, b, c, d = rng.uniform(0.05 * full, 0.95 * full, size=(4, 2))
        curve = a * (1 - t) ** 3 + 3 * t * (1 - t) * (b * (1 - t) + c * t) + d * t**3
        light = int(rng.integers(110, 200))
        pen.line(curve.ravel().tolist(), fill=light, width=max(2, full // 130), joint="curve")
    return np.asarray(picture.reduce(2), dtype=np.float32) / 255


def _noise(rng: np.random.Generator, size: int, cells: int) -> _Field:
    """Smooth noise of about unit variance with that many bumps a side."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(1.4)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _step(x: _Field) -> _Field:
    """Rise smoothly from 0 to 1 for x from -1 to 1."""
    t = x * 0.5 + 0.5
    np.clip(t, 0, 1, out=t)
    smooth: _Field = t * t * (3 - 2 * t)
    return smooth


def _bump(x: _Field) -> _Field:
    return np.exp(-(x * x))


def _shaft(x: _Field) -> _Field:
    """Density of a long bone at x radii from its axis: the rim is denser than the marrow."""
    return _step((1 - np.abs(x)) / 0.25) * (0.65 + 0.5 * np.minimum(x * x, 1))


def _ribs(phase: _Field) -> _Field:
    return _shaft((phase - np.rint(phase)) / 0.27) * _step((phase + 0.4) / 0.01)


def _distance(x: _Field, y: _Field, start: tuple[float, float], end: tuple[float, float]) -> _Field:
    """Distance from the segment between two points."""
    dx, dy = float(end[0] - start[0]), float(end[1] - start[1])
    x, y = x - start[0], y - start[1]
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - along * dx, y - along * dy)
