"""The face: positions, visibility and colours of its features."""

import numpy as np

from .body import HEAD, Body
from .outfit import Material

# Places of the features on a head of radius 1: to its left, down and back.
FEATURES = {
    'nose': (0.0, 0.12, -0.98),
    'left_eye': (0.36, -0.14, -0.9),
    'right_eye': (-0.36, -0.14, -0.9),
    'left_ear': (1.0, 0.0, 0.08),
    'right_ear': (-1.0, 0.0, 0.08),
}
# A feature is visible if the cosine of the angle between its normal and the camera exceeds this.
_FACING, _EAR_FACING = 0.12, -0.25


def features(body: Body) -> dict[str, np.ndarray]:
    """Position (3,) of each feature of the face, in the frame of the body."""
    center, head = body.joints['head'], body.head
    return {name: center + head @ np.array(p) * HEAD for name, p in FEATURES.items()}


def is_facing(body: Body, name: str) -> bool:
    """Whether a feature of the face is on the side of the head that the camera sees."""
    normal = body.head @ np.array(FEATURES[name])
    return -normal[2] / np.linalg.norm(normal) > (_EAR_FACING if 'ear' in name else _FACING)


def head_colors(
    u: np.ndarray, v: np.ndarray, head: np.ndarray, skin: np.ndarray, hair: Material
) -> np.ndarray:
    """Colours of skin, hair, eyes, nose and mouth on the surface of a ball.

    Args:
        u: Places to the right of the centre of the head, in its radii.
        v: Places below the centre of the head, in its radii.
        head: Orientation of the head, float32 (3, 3).
        skin: RGB of the skin.
        hair: Material of the hair.

    Returns:
        (H, W, 3), RGB from 0 to 255.
    """
    toward = np.sqrt(np.maximum(1 - u**2 - v**2, 0))
    surface = np.stack(np.broadcast_arrays(u, v, -toward), -1) @ head  # in the frame of the head
    left, down, back = surface[..., 0], surface[..., 1], surface[..., 2]
    colors = np.broadcast_to(skin, surface.shape).copy()
    is_hair = (down < -0.52 + 0.15 * np.abs(left)) | ((back > 0.1) & (down < 0.5))
    colors[is_hair] = hair.at(left, down)[is_hair]
    front = back < 0
    for sign in (1, -1):
        eye = ((left - sign * 0.36) / 0.24) ** 2 + ((down + 0.14) / 0.19) ** 2
        colors[front & (eye < 1)] = (248, 248, 248)
        colors[front & (eye < 0.3)] = (20, 18, 22)
        brow = (np.abs(left - sign * 0.36) < 0.22) & (np.abs(down + 0.42) < 0.04)
        colors[front & brow] = hair.color * 0.8
    nose = (left / 0.15) ** 2 + ((down - 0.12) / 0.17) ** 2 < 1
    colors[front & nose] = skin * (0.85, 0.5, 0.45)
    mouth = (np.abs(left) < 0.28) & (np.abs(down - 0.55) < 0.06)
    colors[front & mouth] = skin * (0.75, 0.45, 0.45)
    return colors
