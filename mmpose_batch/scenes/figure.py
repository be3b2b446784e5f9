"""A figure: a dressed body in an image, its keypoints and which of them are visible."""

import numpy as np

from .body import KEYPOINTS, SKELETON, Body
from .canvas import Canvas
from .face import FEATURES, features, is_facing
from .outfit import Outfit
from .painting import Painter
from .parts import Projection, build_parts


class Figure:
    """A dressed body in an image.

    Args:
        body: The pose.
        outfit: Clothes, skin and hair.
        height: Height of the standing body in pixels.
        center: x and y of the middle of the hips, in pixels.
        light: Unit vector (3,) towards the light.
        ambient: Fraction of the light that is ambient.
    """

    def __init__(
        self,
        body: Body,
        outfit: Outfit,
        height: float,
        center: np.ndarray,
        light: np.ndarray,
        ambient: float,
    ) -> None:
        self._body, self._projection = body, Projection(height, center)
        self._painter = Painter(outfit, light, ambient)
        self.parts = build_parts(body, outfit, self._projection)

    def keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the keypoints, and which of them face away.

        Returns:
            float (17, 2), x and y in pixels, and bool (17,), True for features of
            the face on the far side of the head.
        """
        points = {**self._body.joints, **features(self._body)}
        places = np.array([self._projection.place(points[name]) for name in KEYPOINTS])
        away = np.array(
            [name in FEATURES and not is_facing(self._body, name) for name in KEYPOINTS], dtype=bool
        )
        return places, away

    def draw(self, canvas: Canvas, owner: int) -> None:
        """Draw the figure over a canvas, and note which pixels show it."""
        self._painter.paint(canvas, owner, self.parts)

    def visible_keypoints(self, canvas: Canvas, owner: int) -> np.ndarray:
        """COCO's visibility (17,) of each keypoint: 2 seen, 1 hidden, 0 not labelled.

        A hidden one is labelled if two of its neighbours in the skeleton are seen, such as
        shoulder and wrist of an elbow; otherwise its position could only be guessed.
        """
        height, width = canvas.owners.shape
        places, away = self.keypoints()
        seen = np.zeros(len(KEYPOINTS), bool)
        inside = np.zeros(len(KEYPOINTS), bool)
        for i, (name, (x, y)) in enumerate(zip(KEYPOINTS, places, strict=True)):
            column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            inside[i] = not away[i] and 0 <= column < width and 0 <= row < height
            if inside[i] and canvas.owners[row, column] == owner:
                seen[i] = name in self.parts[canvas.parts[row, column]].joints
        neighbours = np.zeros(len(KEYPOINTS), int)
        for a, b in np.array(SKELETON) - 1:
            neighbours[a] += seen[b]
            neighbours[b] += seen[a]
        return np.where(seen, 2, np.where(inside & (neighbours >= 2), 1, 0))
