"""Fast drawings of poses on frames of videos: one colour per person, by OpenCV."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import cv2
import numpy as np

from ...config import DrawOptions
from ...models.keypoints import Keypoints
from ..base import Record
from .canvas import Colour, Target

Instance = Mapping[str, Any]

# Blue, green, red of persons: bright, and far apart for neighbouring ids.
_PALETTE: tuple[Colour, ...] = (
    *((70, 235, 50), (0, 135, 255), (255, 150, 30), (0, 230, 255), (250, 60, 240)),
    *((250, 245, 30), (70, 70, 255), (190, 255, 130), (200, 150, 255), (255, 90, 140)),
    *((120, 200, 255), (255, 255, 255)),
)
# Persons without a confirmed track, in a run with tracks.
_UNCONFIRMED: Colour = (190, 190, 190)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
# Brightness of the right side of a body, relative to the left one.
_RIGHT = 0.7
# Colour of the edge of lines and points, so that they are visible on any background.
_EDGE: Colour = (30, 30, 30)
# OpenCV takes coordinates in sixteenths of a pixel, so that slow motion looks smooth.
_SHIFT = 4
# Coordinates in pixels beyond which OpenCV's integers may overflow.
_LIMIT = 2**15
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DEFAULTS = DrawOptions()


def track_colour(track_id: int) -> Colour:
    """Colour (blue, green, red) of the person of a track, in every frame."""
    return _PALETTE[track_id % len(_PALETTE)]


class PoseDrawer:
    """Draws the instances of records.

    A person has the colour of its track; without tracks, persons are coloured from left to right.
    The right side of a body is darker than the left one. The default radius and thickness follow
    the height of the image (4 and 2 pixels for 720); other values are used as they are.

    Args:
        keypoints: Keypoints of the model, with the links of its dataset.
        options: Radius, thickness, minimum score, boxes and background.
    """

    def __init__(self, keypoints: Keypoints, options: DrawOptions) -> None:
        meta, indices = keypoints.dataset_meta, keypoints.indices
        if indices is None:
            indices = range(keypoints.num_keypoints)
        position = {index: place for place, index in enumerate(indices)}
        names = meta.get('keypoint_id2name') or {}
        right = [str(names.get(index, '')).startswith('right') for index in indices]
        links = [
            (position[a], position[b])
            for a, b in meta.get('skeleton_links') or ()
            if a in position and b in position
        ]
        self._right = np.array(right, dtype=bool)
        self._links = np.array(links, dtype=int).reshape(-1, 2)
        self._right_links = self._right[self._links].any(axis=1)
        self._options = options

    def draw(self, image: Target, record: Record) -> None:
        """Draw the instances of a record on its image, in place."""
        if self._options.black_background:
            image.fill(_BLACK)
        instances = record['instances']
        colours = _colours(instances)
        radius, thickness = self._sizes(image.height)
        # Persons of the highest scores are drawn last, on top of others.
        order = sorted(range(len(instances)), key=lambda i: instances[i].get('bbox_score', 0))
        for i in order:
            self._draw_pose(image, instances[i], colours[i], radius, thickness)
        for i in order:
            self._draw_box(image, instances[i], colours[i], thickness)

    def _sizes(self, height: int) -> tuple[int, int]:
        """Radius and thickness in pixels for images of a height."""
        radius, thickness = self._options.radius, self._options.thickness
        if radius == _DEFAULTS.radius:
            radius = max(2, round(height / 180))
        if thickness == _DEFAULTS.thickness:
            # A line of one pixel would lose its colour, which videos store for every second pixel.
            thickness = max(2, round(height / 360))
        return ceil(radius), thickness

    def _visible(self, instance: Instance) -> np.ndarray:
        return np.asarray(instance['keypoint_scores']) > self._options.kpt_thr

    def _draw_pose(
        self, image: Target, instance: Instance, colour: Colour, radius: int, thickness: int
    ) -> None:
        points, visible = _fixed_point(instance['keypoints']), self._visible(instance)
        shades = colour, _darker(colour)
        shown = visible[self._links].all(axis=1)
        links = points[self._links]
        if shown.any():
            # LINE_8 is faster.
            image.edges.polylines(links[shown], _EDGE, thickness + 2, cv2.LINE_8, _SHIFT)
        for is_right, shade in enumerate(shades):
            side = shown & (self._right_links == is_right)
            if side.any():
                image.polylines(links[side], shade, thickness, cv2.LINE_AA, _SHIFT)
        if visible.any():
            image.edges.circles(points[visible], radius + 1, _EDGE, cv2.LINE_8, _SHIFT)
        for is_right, shade in enumerate(shades):
            side = visible & (self._right == is_right)
            if side.any():
                image.circles(points[side], radius, shade, cv2.LINE_AA, _SHIFT)

    def _draw_box(self, image: Target, instance: Instance, colour: Colour, thickness: int) -> None:
        box, track_id = instance.get('bbox'), instance.get('track_id')
        if self._options.draw_bbox and box is not None:
            corners = _fixed_point(box).reshape(2, 2).tolist()
            image.rectangle(*corners, colour, thickness, _SHIFT)
        if track_id is None:
            return
        if box is not None:
            middle = (box[0] + box[2]) / 2, box[1]
        else:
            points = np.asarray(instance['keypoints'])[self._visible(instance)]
            if not len(points):
                return
            middle = points[points[:, 1].argmin()]
        draw_label(image, str(track_id), middle, colour)


def draw_label(
    image: Target,
    text: str,
    bottom: Sequence[float],
    background: Colour,
    enlarge: float = 1.0,
) -> None:
    """Draw one line of text on a filled rectangle, in place and inside the image.

    Args:
        image: What is drawn on.
        text: ASCII text.
        bottom: Middle of the lower edge of the rectangle: x and y in pixels.
        background: Colour of the rectangle: blue, green, red.
        enlarge: Factor of the size of the text, which follows the height of the image and is
            reduced until the text fits.
    """
    height, width = image.height, image.width
    scale = enlarge * max(0.4, height / 1200)
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    scale *= min(1, 0.95 * width / text_width)
    thickness = max(1, round(scale * 1.6))
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = max(2, round(scale * 5))
    label_width, label_height = text_width + 2 * margin, text_height + below + margin
    x = int(np.clip(bottom[0] - label_width / 2, 0, max(0, width - label_width)))
    y = int(np.clip(bottom[1] - label_height, 0, max(0, height - label_height)))
    blue, green, red = background
    light = 0.114 * blue + 0.587 * green + 0.299 * red > 128
    image.rectangle((x, y), (x + label_width, y + label_height), background, -1)
    origin = x + margin, y + margin // 2 + text_height
    colour = _BLACK if light else _WHITE
    image.text(text, origin, _FONT, scale, colour, thickness)


def _colours(instances: Sequence[Instance]) -> list[Colour]:
    """Colour of each person."""
    if any('track_id' in instance for instance in instances):
        ids = [instance.get('track_id') for instance in instances]
        return [_UNCONFIRMED if each is None else track_colour(each) for each in ids]
    # The order of persons changes with their scores, from frame to frame, their places less.
    places = [np.mean(instance['keypoints'], axis=0)[0] for instance in instances]
    ranks = np.argsort(np.argsort(places)).tolist()
    return [track_colour(rank) for rank in ranks]


def _darker(colour: Colour) -> Colour:
    blue, green, red = (round(_RIGHT * value) for value in colour)
    return blue, green, red


def _fixed_point(points: Any) -> np.ndarray:
    """Coordinates in pixels as OpenCV's integers."""
    return np.round(clipped(points) * (1 << _SHIFT)).astype(np.int32)


def clipped(points: Any) -> np.ndarray:
    """Coordinates in pixels, float64, without those that OpenCV's integers cannot represent."""
    return np.clip(np.asarray(points, dtype=np.float64), -_LIMIT, _LIMIT)
