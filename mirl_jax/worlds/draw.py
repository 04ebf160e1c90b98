"""Draws a scene graph: shapes, bars, light, occlusion, clutter and noise."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.scene import (
  BASE,
  CELL,
  COLORS,
  HEIGHTS,
  SIDE,
  UNIT,
  Box,
  Scene,
)

PALETTE = {
  "red": (0.90, 0.14, 0.14),
  "green": (0.12, 0.72, 0.22),
  "blue": (0.14, 0.32, 0.95),
  "yellow": (0.96, 0.88, 0.12),
  "purple": (0.66, 0.18, 0.80),
}

EXTENT = {"big": 12, "small": 9}  # pixels across, before jitter
BACKGROUND = (0.3, 0.6)  # range of the grey level
_SUPERSAMPLE = 8
_STAR = 0.42  # inner radius of a star as a share of the outer one


@dataclass(frozen=True)
class Look:
  """Everything that a picture shows beside its scene graph.

  Attributes:
    background: grey level.
    gain: brightness factor of the whole picture.
    gradient: change of brightness across the picture, rightwards and down.
    sigma: standard deviation of the pixel noise.
    patches: grey boxes over things, with their grey levels.
    specks: left, top, side in pixels and colour name of each speck.
  """

  background: float
  gain: float
  gradient: tuple[float, float]
  sigma: float
  patches: tuple[tuple[Box, float], ...]
  specks: tuple[tuple[int, int, int, str], ...]


def _polygon(
  xs: np.ndarray, ys: np.ndarray, corners: list[tuple[float, float]]
) -> np.ndarray:
  """Even-odd test of every point against a polygon."""
  inside = np.zeros(np.broadcast(xs, ys).shape, bool)
  previous = corners[-1]
  for corner in corners:
    (x0, y0), (x1, y1) = previous, corner
    if y0 != y1:
      crosses = (y0 > ys) != (y1 > ys)
      inside ^= crosses & (xs < (x1 - x0) * (ys - y0) / (y1 - y0) + x0)
    previous = corner
  return inside


@functools.cache
def shape_mask(shape: str, size: str) -> Float[np.ndarray, "height width"]:
  """Share of each pixel that a shape covers, cropped to what it touches."""
  side = EXTENT[size]
  points = (np.arange(side * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE
  # Unit square, centre 0, y downwards.
  xs = points[None, :] / side * 2 - 1
  ys = points[:, None] / side * 2 - 1
  if shape == "circle":
    inside = xs**2 + ys**2 <= 1
  elif shape == "square":
    inside = (abs(xs) <= 0.84) & (abs(ys) <= 0.84)
  elif shape == "triangle":
    inside = _polygon(xs, ys, [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)])
  elif shape == "star":
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, _STAR, 1.0) * 1.05
    corners = np.stack([np.cos(angles), np.sin(angles)], -1) * radii[:, None]
    corners[:, 1] += 0.09  # five points stand higher than wide
    inside = _polygon(xs, ys, [(float(x), float(y)) for x, y in corners])
  else:
    raise ValueError(f"shape={shape!r} cannot be drawn")
  blocks = inside.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE)
  mask = blocks.mean(axis=(1, 3)).astype(np.float32)
  rows = np.flatnonzero(mask.any(1))
  columns = np.flatnonzero(mask.any(0))
  mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  mask.flags.writeable = False
  return mask


@functools.cache
def _stamp(color: str, shape: str, size: str) -> tuple[np.ndarray, np.ndarray]:
  """A shape's transparency and its colour weighted by its coverage."""
  mask = shape_mask(shape, size)[..., None]
  return 1 - mask, mask * np.asarray(PALETTE[color], np.float32)


@functools.cache
def _ramps() -> tuple[np.ndarray, np.ndarray]:
  ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
  return ramp[None, :, None], ramp[:, None, None]


def _patch(box: Box, kind: str, rng: np.random.Generator) -> Box:
  """A grey box that covers a part of a thing's box, never all of it."""
  left, top, right, bottom = box
  if kind == "chart":
    thick = 4
  elif rng.random() < 0.5:
    # A corner: a quarter of the box and a bit.
    width = (right - left) * 5 // 8
    height = (bottom - top) * 5 // 8
    if rng.random() < 0.5:
      left = right - width
    if rng.random() < 0.5:
      top = bottom - height
    return (left, top, left + width, top + height)
  else:
    thick = (bottom - top) * 3 // 8
  top += int(rng.random() * (bottom - top - thick + 1))
  return (left - 1, top, right + 1, top + thick)


def sample_look(scene: Scene, dials: Dials, rng: np.random.Generator) -> Look:
  """Draws at random how a scene is lit, covered, cluttered and blurred."""
  low, high = dials.noise
  sigma = low + (high - low) * rng.random()
  background = BACKGROUND[0] + (BACKGROUND[1] - BACKGROUND[0]) * rng.random()
  gain = 1 + dials.lighting * (2 * rng.random() - 1)
  angle = 2 * np.pi * rng.random()
  steep = dials.lighting * rng.random()
  patches = []
  for box in scene.boxes():
    if rng.random() < dials.occlusion:
      covered = _patch(box, scene.kind, rng)
      # Darker or lighter than the background, so that a person sees it.
      level = background + (0.18 if rng.random() < 0.5 else -0.18)
      patches.append((covered, level))
  specks = []
  for _ in range(int(rng.random() * (dials.clutter + 1))):
    side = 1 + int(rng.random() * 2)
    left = int(rng.random() * (SIDE - side + 1))
    top = int(rng.random() * (SIDE - side + 1))
    specks.append((left, top, side, COLORS[int(rng.random() * len(COLORS))]))
  return Look(
    background=background,
    gain=gain,
    gradient=(steep * float(np.cos(angle)), steep * float(np.sin(angle))),
    sigma=sigma,
    patches=tuple(patches),
    specks=tuple(specks),
  )


def draw(
  scene: Scene, look: Look, rng: np.random.Generator
) -> UInt8[np.ndarray, "48 48 3"]:
  """Paints a scene; `rng` gives the pixel noise and nothing else."""
  canvas = np.full((SIDE, SIDE, 3), look.background, np.float32)
  if scene.kind == "chart":
    for height in HEIGHTS:
      canvas[BASE - UNIT * height] *= 0.85  # grid lines, to count units by
    canvas[BASE:] *= 0.6
  for left, top, side, color in look.specks:
    canvas[top : top + side, left : left + side] = PALETTE[color]
  for thing in scene.things:
    left, top, right, bottom = thing.box
    clear, paint = _stamp(thing.color, thing.shape, thing.size)
    spot = canvas[top:bottom, left:right]
    spot *= clear
    spot += paint
  for bar in scene.bars:
    left, top, right, bottom = bar.box
    canvas[top:bottom, left:right] = PALETTE[bar.color]
  for (left, top, right, bottom), level in look.patches:
    canvas[max(top, 0) : bottom, max(left, 0) : right] = level
  across, down = _ramps()
  canvas *= look.gain * (
    1 + look.gradient[0] * across + look.gradient[1] * down
  )
  noise = rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
  noise *= look.sigma
  canvas += noise
  canvas *= 255
  canvas += 0.5
  return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def place(
  cell: int, shape: str, size: str, rng: np.random.Generator, jitter: int = 2
) -> Box:
  """The box of a shape in a cell, moved off its middle by up to `jitter`."""
  height, width = shape_mask(shape, size).shape
  corner = []
  for origin, extent in ((cell % 3, width), (cell // 3, height)):
    slack = CELL - extent
    shift = int(rng.random() * (2 * jitter + 1)) - jitter
    start = min(max((slack + 1) // 2 + shift, 0), slack)
    corner.append(CELL * origin + start)
  left, top = corner
  return (left, top, left + width, top + height)
