"""Backgrounds, objects in front of people, and the imaging of a camera."""

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
    hidden = _draw_shape(rng, canvas.colors) > 127
    canvas.owners[hidden] = -1
    canvas.parts[hidden] = -1


def develop(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Image a scene as a camera does: exposure, colour cast, blur and noise.

    Args:
        rng: Generator of the settings and the noise.
        colors: float32 (H, W, 3), RGB.

    Returns:
        uint8 (H, W, 3), BGR.
    """
    if rng.random() < 0.2:
        colors = cv2.GaussianBlur(colors, (0, 0), rng.uniform(0.4, 0.9))
    cast = (rng.uniform(0.85, 1.15, 3) * rng.uniform(0.65, 1.2)).astype(np.float32)
    contrast = np.float32(rng.uniform(0.75, 1.15))
    noise = np.frombuffer(rng.bytes(colors.size), np.int8).reshape(colors.shape)
    colors = colors * (cast * contrast) + 128 * cast * (1 - contrast)
    colors += noise * np.float32(rng.uniform(0, 0.06))
    return np.clip(colors, 0, 255).astype(np.uint8)[..., ::-1]
