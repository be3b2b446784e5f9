"""Painting the parts of a figure as shaded volumes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

import cv2
import numpy as np

from .canvas import Canvas
from .face import head_colors
from .outfit import BELT, Outfit
from .parts import Part, discs

# The front of a shirt is drawn if the cosine of its angle to the camera is at least this.
_FRONT = 0.25


@dataclass(frozen=True)
class _Pixels:
    """The pixels of the parts of a figure, one part after another.

    Attributes:
        columns, rows: int (N,), places of the pixels.
        alpha: float32 (N,), how much of it a part covers.
        slices: The pixels of each part.
    """

    columns: np.ndarray
    rows: np.ndarray
    alpha: np.ndarray
    slices: list[slice]


@dataclass(frozen=True)
class Painter:
    """Paints figures in the light of a scene.

    Attributes:
        outfit: Clothes, skin and hair of the figure.
        light: Unit vector (3,) towards the light.
        ambient: Fraction of the light that is ambient.
    """

    outfit: Outfit
    light: np.ndarray
    ambient: float

    def paint(self, canvas: Canvas, owner: int, parts: Sequence[Part]) -> None:
        """Paint parts over a canvas, and note which pixels they cover.

        The colours of all parts are computed together, since most parts are so small that the
        calls of NumPy would take more time than the pixels.

        Args:
            canvas: The image.
            owner: Number of the figure.
            parts: The parts, from the farthest to the nearest.
        """
        pixels = _cover(parts, canvas.owners.shape)
        x, y = pixels.columns.astype(np.float32), pixels.rows.astype(np.float32)
        counts = [each.stop - each.start for each in pixels.slices]
        along, across = _coordinates(parts, counts, x, y)
        colors = self._colors(parts, pixels.slices, (x, y), (along, across))
        colors *= self._lit(parts, counts, across)[:, None]
        self._lay(canvas, owner, pixels, colors)

    @staticmethod
    def _lay(canvas: Canvas, owner: int, pixels: _Pixels, colors: np.ndarray) -> None:
        """Lay the colours (N, 3) of the parts over a canvas, one part after another."""
        surface = canvas.colors.reshape(-1, 3)
        owners, numbers = canvas.owners.reshape(-1), canvas.parts.reshape(-1)
        places = pixels.rows * canvas.owners.shape[1] + pixels.columns
        alpha, solid = np.repeat(pixels.alpha / 255, 3).reshape(-1, 3), pixels.alpha > 127
        for number, each in enumerate(pixels.slices):
            place = places[each]
            below = surface.take(place, 0)
            layer = colors[each]
            layer -= below
            layer *= alpha[each]
            layer += below
            surface[place] = layer
            inside = place[solid[each]]
            owners[inside] = owner
            numbers[inside] = number

    def _colors(
        self,
        parts: Sequence[Part],
        slices: Sequence[slice],
        places: tuple[np.ndarray, np.ndarray],
        coordinates: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Colours (N, 3) of all pixels in full light."""
        colors = np.empty((len(places[0]), 3), np.float32)
        for part, each in zip(parts, slices, strict=True):
            if part.head is not None:
                colors[each] = self._head_colors(part, *(place[each] for place in places))
                continue
            along, across = (coordinate[each] for coordinate in coordinates)
            colors[each] = part.material.at(along, across)
            if part.facing >= _FRONT:
                _add_front(colors[each], part.material.color, along, across)
            if part.facing:
                _add_waist(colors[each], along, self.outfit.trousers.color)
        return colors

    def _lit(self, parts: Sequence[Part], counts: Sequence[int], across: np.ndarray) -> np.ndarray:
        """Light on cylinders about the axes of parts, by the cosine of its angle."""
        weights = []
        for part in parts:
            axis = part.ends[1] - part.ends[0]
            sideways = np.array([-axis[1], axis[0]]) / max(np.hypot(*axis), 1e-6)
            weights.append(float(sideways @ self.light[:2]))
        toward = np.sqrt(np.maximum(1 - across**2, 0))
        cosine = across * np.repeat(np.float32(weights), counts) - toward * float(self.light[2])
        return self.ambient + (1 - self.ambient) * np.maximum(cosine, 0)

    def _head_colors(self, part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        center, radius = part.ends.mean(0), part.radii.max() * 1.12
        u, v = (x - center[0]) / radius, (y - center[1]) / radius
        return head_colors(u, v, part.head, self.outfit.skin.color, self.outfit.hair)


def _cover(parts: Sequence[Part], shape: tuple[int, int]) -> _Pixels:
    """The pixels of an image (height, width) that each part covers."""
    masks, found, corners = [], [], []
    for outline in _outlines(parts):
        mask, corner = _fill(outline, shape)
        masks.append(mask.reshape(-1))
        found.append(np.flatnonzero(masks[-1]))
        corners.append((*corner, mask.shape[1]))
    ends = np.cumsum([0, *map(len, found)])
    left, top, width = np.repeat(np.array(corners).T, np.diff(ends), axis=1)
    rows, columns = np.divmod(np.concatenate(found), width)
    alpha = np.concatenate([mask[index] for mask, index in zip(masks, found, strict=True)])
    slices = [slice(start, end) for start, end in pairwise(ends.tolist())]
    return _Pixels(columns + left, rows + top, alpha.astype(np.float32), slices)


def _outlines(parts: Sequence[Part]) -> Iterator[np.ndarray]:
    ends, radii = np.stack([p.ends for p in parts]), np.stack([p.radii for p in parts])
    capsules = discs(ends, radii).reshape(len(parts), -1, 2)
    for part, capsule in zip(parts, capsules, strict=True):
        yield part.hull if part.hull is not None else cv2.convexHull(capsule)[:, 0]


def _fill(outline: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Coverage of the pixels around an outline, uint8 (h, w), and the first column and row."""
    height, width = shape
    x, y = outline.T.tolist()
    left, top = max(floor(min(x)) - 1, 0), max(floor(min(y)) - 1, 0)
    right, bottom = min(ceil(max(x)) + 2, width), min(ceil(max(y)) + 2, height)
    mask = np.zeros((max(bottom - top, 0), max(right - left, 0)), np.uint8)
    if mask.size:
        fixed_point = np.round((outline - (left, top)) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed_point, 255, cv2.LINE_AA, 4)
    return mask, (left, top)


def _add_front(
    colors: np.ndarray, shirt: np.ndarray, along: np.ndarray, across: np.ndarray
) -> None:
    """Add a neckline and buttons to the front of a shirt, which distinguish it from the back."""
    neckline = along < 0.16 - 0.5 * np.abs(across)
    buttons = (np.abs(across) < 0.05) & (along % 0.2 < 0.06) & (along > 0.2)
    colors[neckline] *= 0.5
    colors[buttons] = 255 - shirt


def _add_waist(colors: np.ndarray, along: np.ndarray, trousers: np.ndarray) -> None:
    """Add a belt at the end of a shirt, and trousers below it."""
    colors[along > 0.86] = BELT.color
    colors[along > 0.95] = trousers


def _coordinates(
    parts: Sequence[Part], counts: Sequence[int], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places along the axes of the parts (0 to 1) and across them (-1 to 1).

    Args:
        parts: The parts.
        counts: Number of pixels of each part.
        x: Columns (N,) of the pixels.
        y: Rows (N,) of the pixels.
    """
    axes = [part.ends[1] - part.ends[0] for part in parts]
    squares = [np.float32(max(axis @ axis, 1e-6)) for axis in axes]
    table = [
        (
            *part.ends[0],
            *axis,
            square,
            np.sqrt(square),
            part.radii[0],
            part.radii[1] - part.radii[0],
        )
        for part, axis, square in zip(parts, axes, squares, strict=True)
    ]
    left, top, right, down, square, length, radius, growth = np.repeat(
        np.float32(table).T, counts, axis=1
    )
    dx, dy = x - left, y - top
    along = (dx * right + dy * down) / square
    half_width = radius + np.clip(along, 0, 1) * growth
    across = (dy * right - dx * down) / length / half_width
    return along, np.clip(across, -1, 1)
