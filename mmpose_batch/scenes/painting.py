"""Painting the parts of a figure as shaded volumes."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Canvas
from .face import head_colors
from .outfit import BELT, Outfit
from .parts import Part, disc


@dataclass(frozen=True)
class Painter:
    """Paints parts in the light of a scene.

    Attributes:
        outfit: Clothes, skin and hair of the figure.
        light: Unit vector (3,) towards the light.
        ambient: Fraction of the light that is ambient.
    """

    outfit: Outfit
    light: np.ndarray
    ambient: float

    def paint(self, canvas: Canvas, owner: int, number: int, part: Part) -> None:
        """Paint a part over a canvas, and note which pixels it covers.

        Args:
            canvas: The image.
            owner: Number of the figure.
            number: Number of the part in the figure.
            part: The part.
        """
        outline = part.hull if part.hull is not None else _capsule(part.ends, part.radii)
        height, width = canvas.owners.shape
        low = np.maximum(np.floor(outline.min(0)) - 1, 0).astype(int)
        high = np.minimum(np.ceil(outline.max(0)) + 2, (width, height)).astype(int)
        if (high <= low).any():
            return
        window = slice(low[1], high[1]), slice(low[0], high[0])
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        fixed_point = np.round((outline - low) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed_point, 255, cv2.LINE_AA, 4)
        x = np.arange(low[0], high[0], dtype=np.float32)[None]
        y = np.arange(low[1], high[1], dtype=np.float32)[:, None]
        along, across = _coordinates(part, x, y)
        colors = (
            self._head_colors(part, x, y)
            if part.head is not None
            else part.material.at(along, across)
        )
        if part.facing:
            colors = _with_front(colors, part, along, across)
            colors = _with_waist(colors, along, self.outfit.trousers.color)
        light = self._lit(part, across)
        alpha = mask[..., None].astype(np.float32) / 255
        canvas.colors[window] += alpha * (colors * light[..., None] - canvas.colors[window])
        solid = mask > 127
        canvas.owners[window][solid] = owner
        canvas.parts[window][solid] = number

    def _lit(self, part: Part, across: np.ndarray) -> np.ndarray:
        """Light on a cylinder about the axis of a part, by the cosine of its angle."""
        axis = part.ends[1] - part.ends[0]
        sideways = np.array([-axis[1], axis[0]]) / max(np.hypot(*axis), 1e-6)
        toward = np.sqrt(np.maximum(1 - across**2, 0))
        cosine = across * float(sideways @ self.light[:2]) - toward * float(self.light[2])
        return self.ambient + (1 - self.ambient) * np.maximum(cosine, 0)

    def _head_colors(self, part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        center, radius = part.ends.mean(0), part.radii.max() * 1.12
        u, v = (x - center[0]) / radius, (y - center[1]) / radius
        return head_colors(u, v, part.head, self.outfit.skin.color, self.outfit.hair)


def _with_front(
    colors: np.ndarray, part: Part, along: np.ndarray, across: np.ndarray
) -> np.ndarray:
    """Add a neckline and buttons to the front of a shirt, which distinguish it from the back."""
    if part.facing < 0.25:
        return colors
    colors = colors.copy()
    neckline = along < 0.16 - 0.5 * np.abs(across)
    buttons = (np.abs(across) < 0.05) & (along % 0.2 < 0.06) & (along > 0.2)
    colors[neckline] = colors[neckline] * 0.5
    colors[buttons] = 255 - part.material.color
    return colors


def _with_waist(colors: np.ndarray, along: np.ndarray, trousers: np.ndarray) -> np.ndarray:
    """Add a belt at the end of a shirt, and trousers below it."""
    colors = np.where((along > 0.86)[..., None], BELT.color, colors)
    return np.where((along > 0.95)[..., None], trousers, colors)


def _coordinates(part: Part, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places along the axis of a part (0 to 1) and across it (-1 to 1)."""
    axis = part.ends[1] - part.ends[0]
    square = np.float32(max(axis @ axis, 1e-6))
    dx, dy = x - part.ends[0, 0], y - part.ends[0, 1]
    along = (dx * axis[0] + dy * axis[1]) / square
    half_width = part.radii[0] + np.clip(along, 0, 1) * (part.radii[1] - part.radii[0])
    across = (dy * axis[0] - dx * axis[1]) / np.sqrt(square) / half_width
    return along, np.clip(across, -1, 1)


def _capsule(ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    discs = [disc(end, radius) for end, radius in zip(ends, radii, strict=True)]
    return cv2.convexHull(np.concatenate(discs).astype(np.float32))[:, 0]
