"""Backgrounds, objects in front of people, and the imaging of a camera."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Canvas

# Walls, sky, grass, earth, wood and stone; RGB.
_GROUNDS = (
    *((214, 208, 196), (168, 164, 158), (120, 116, 112), (70, 72, 78), (186, 170, 150)),
    *((150, 186, 222), (200, 218, 232), (104, 140, 84), (140, 156, 104), (70, 96, 66)),
    *((150, 124, 96), (116, 84, 60), (196, 176, 132), (90, 104, 124), (206, 190, 190)),
)


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A blurred wall, ground and sky, or a clutter of shapes; float32 (H, W, 3), RGB."""
    colors = _clouds(rng, width, height)
    if rng.random() < 0.7:
        horizon = int(height * rng.uniform(0.35, 0.85))
        ground = _clouds(rng, width, height - horizon)
        colors[horizon:] = 0.3 * colors[horizon:] + 0.7 * ground
    for _ in range(rng.integers(0, 10)):
        _draw_shape(rng, colors)
    if rng.random() < 0.7:
        colors = cv2.GaussianBlur(colors, (0, 0), rng.uniform(0.8, 3))
    return colors


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Smooth variations of one colour, with a finer texture on top."""
    base = np.array(_GROUNDS[rng.integers(len(_GROUNDS))]) * rng.uniform(0.75, 1.15)
    base += rng.normal(0, 8, 3)
    result = np.zeros((height, width, 3), np.float32) + base.astype(np.float32)
    for cells, strength in (
        (3, rng.uniform(5, 30)),
        (12, rng.uniform(0, 15)),
        (60, rng.uniform(0, 12)),
    ):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        coarse = 0.3 * coarse + 0.7 * coarse.mean(
            -1, keepdims=True
        )  # varies lightness more than hue
        result += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return result


def _draw_shape(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Draw a box, disc, pole or leaf somewhere and return its mask, uint8 (H, W)."""
    height, width = colors.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    center = rng.uniform(0, 1, 2) * (width, height)
    size = np.exp(rng.uniform(np.log(0.03), np.log(0.35), 2)) * min(width, height)
    kind = rng.choice(['box', 'disc', 'pole', 'polygon'])
    if kind == 'box':
        corners = cv2.boxPoints((center.tolist(), (2 * size).tolist(), rng.normal(0, 15)))
        cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255, cv2.LINE_AA)
    elif kind == 'disc':
        axes = np.maximum(size, 1).astype(int).tolist()
        cv2.ellipse(mask, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 255, -1)
    elif kind == 'pole':
        ends = center + np.array([[-1], [1]]) * rng.normal(0, 1, 2) * (0.15 * width, height)
        thickness = max(1, int(size.min() * 0.5))
        cv2.line(mask, *np.round(ends).astype(int).tolist(), 255, thickness, cv2.LINE_AA)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = center + np.stack((np.cos(angles), np.sin(angles)), -1) * size
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA)
    left, top, right, bottom = _bounds(mask)
    if right > left:
        window = slice(top, bottom), slice(left, right)
        texture = _clouds(rng, right - left, bottom - top)
        alpha = mask[window][..., None].astype(np.float32) / 255
        colors[window] += alpha * (texture - colors[window])
    return mask


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(mask)
    return left, top, left + width, top + height


def draw_object(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw an object in front of the canvas."""
    canvas.cover(_draw_shape(rng, canvas.colors) > 127)


@dataclass(frozen=True)
class Obstacle:
    """An object that stays in its place.

    Attributes:
        window: Rows and columns of the image that contain it.
        colors: float32 (h, w, 3), RGB times opacity.
        opacity: float32 (h, w, 1), from 0 to 1.
    """

    window: tuple[slice, slice]
    colors: np.ndarray
    opacity: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator, width: int, height: int) -> 'Obstacle':
        """Sample an object for an image."""
        colors = np.zeros((height, width, 3), np.float32)
        mask = _draw_shape(rng, colors)
        left, top, right, bottom = _bounds(mask)
        window = slice(top, bottom), slice(left, right)
        return cls(window, colors[window], mask[window][..., None].astype(np.float32) / 255)

    def draw(self, canvas: Canvas) -> None:
        """Draw the object in front of the canvas."""
        below = canvas.colors[self.window]
        canvas.colors[self.window] = below * (1 - self.opacity) + self.colors
        canvas.cover(self.opacity[..., 0] > 0.5, self.window)


@dataclass(frozen=True)
class Imaging:
    """How a camera images a scene: exposure, colour cast, blur and noise.

    Attributes:
        blur: Sigma of the blur in pixels; 0 for none.
        gain: float32 (3,), factor of each channel.
        offset: float32 (3,), added to each channel.
        noise: float32 (N,), noise for the values of an image; the values in excess of an
            image's let its noise begin at another place, see :meth:`apply`.
    """

    blur: float
    gain: np.ndarray
    offset: np.ndarray
    noise: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator, values: int) -> 'Imaging':
        """Sample settings, and noise for a number of values."""
        blur = rng.uniform(0.4, 0.9) if rng.random() < 0.2 else 0.0
        cast = (rng.uniform(0.85, 1.15, 3) * rng.uniform(0.65, 1.2)).astype(np.float32)
        contrast = np.float32(rng.uniform(0.75, 1.15))
        noise = np.frombuffer(rng.bytes(values), np.int8) * np.float32(rng.uniform(0, 0.06))
        return cls(blur, cast * contrast, 128 * cast * (1 - contrast), noise)

    def apply(self, colors: np.ndarray, start: int = 0) -> np.ndarray:
        """Image a scene.

        Args:
            colors: float32 (H, W, 3), RGB.
            start: First value of the noise that is used.

        Returns:
            uint8 (H, W, 3), BGR.
        """
        height, width = colors.shape[:2]
        if self.blur:
            colors = cv2.GaussianBlur(colors, (0, 0), self.blur)
        # With rows of numbers instead of pixels, NumPy's inner loops are long, which is faster.
        rows = colors.reshape(height, -1) * np.tile(self.gain, width)
        rows += np.tile(self.offset, width)
        rows += self.noise[start : start + rows.size].reshape(rows.shape)
        np.clip(rows, 0, 255, out=rows)
        return rows.astype(np.uint8).reshape(colors.shape)[..., ::-1]


def develop(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Image a scene with sampled settings; see :meth:`Imaging.apply`."""
    return Imaging.sample(rng, colors.size).apply(colors)
