"""What is drawn on: images, or the planes of a picture for the encoder, without conversion."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...sources.orientation import is_turned
from .encoding import BT601, LIMITED

if TYPE_CHECKING:
    import av

# Blue, green, red.
Colour = tuple[int, int, int]

# FFmpeg's numbers of unspecified and of BT.601 matrices, which OpenCV converts by, and of the
# full range.
_MATRICES, _FULL = (2, 5, 6), 2


@dataclass(frozen=True, slots=True)
class Layer:
    """An array that OpenCV draws on, in coordinates of the picture.

    Attributes:
        array: uint8, (H, W, 3) in BGR; or a plane (H, W), or (H / 2, W / 2) of chroma.
        plane: Index of the plane; None for BGR.
    """

    array: np.ndarray
    plane: int | None = None

    @property
    def shift(self) -> int:
        """Binary digits by which coordinates are larger than those of the array."""
        return 1 if self.plane else 0

    def colour(self, colour: Colour) -> Colour | int:
        """The values of a colour in this array."""
        return colour if self.plane is None else _yuv(colour)[self.plane]

    def thickness(self, thickness: int) -> int:
        """Thickness of lines in this array; negative values, which fill, remain."""
        # Wide enough for the colour of all pixels of a line, wherever it is.
        return thickness // 2 + 1 if self.plane and thickness > 0 else thickness

    def kind(self, kind: int) -> int:
        """Kind of lines: the smooth edges of luma suffice."""
        return cv2.LINE_8 if self.plane else kind


class Target:
    """A picture to draw on, by the functions of OpenCV with the same names.

    Args:
        layers: One image, or the planes of a picture.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self.height, self.width = layers[0].array.shape[:2]

    def fill(self, colour: Colour) -> None:
        """Set all pixels."""
        for layer in self._layers:
            layer.array[:] = layer.colour(colour)

    @property
    def edges(self) -> 'Target':
        """The same picture for dark edges, which change no chroma: lines keep their colour."""
        return Target([layer for layer in self._layers if not layer.plane])

    def polylines(
        self, lines: np.ndarray, colour: Colour, thickness: int, kind: int, shift: int
    ) -> None:
        """Draw lines (N, 2, 2), int32, with ``shift`` binary digits after the point."""
        for layer in self._layers:
            style = layer.colour(colour), layer.thickness(thickness), layer.kind(kind)
            cv2.polylines(layer.array, lines, False, *style, shift + layer.shift)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a convex polygon (N, 2), int32, in pixels."""
        for layer in self._layers:
            style = layer.colour(colour), layer.kind(cv2.LINE_AA)
            cv2.fillConvexPoly(layer.array, points, *style, layer.shift)

    def circles(
        self, centres: np.ndarray, radius: int, colour: Colour, kind: int, shift: int
    ) -> None:
        """Draw filled circles of a radius in pixels.

        Args:
            centres: Centres (N, 2), int32, with ``shift`` binary digits after the point.
            radius: Radius in pixels.
            colour: Colour of all.
            kind: Kind of OpenCV's lines.
            shift: Number of binary digits.
        """
        for layer in self._layers:
            if layer.plane:
                # Lines without length, whose ends are round, by one call instead of many.
                style = layer.colour(colour), layer.thickness(2 * radius), cv2.LINE_8
                lines = np.repeat(centres[:, None], 2, axis=1)
                cv2.polylines(layer.array, lines, False, *style, shift + layer.shift)
                continue
            shade = layer.colour(colour)
            for centre in centres.tolist():
                cv2.circle(layer.array, centre, radius << shift, shade, -1, kind, shift)

    def rectangle(
        self,
        corner: Sequence[int],
        other: Sequence[int],
        colour: Colour,
        thickness: int,
        shift: int = 0,
    ) -> None:
        """Draw a rectangle between two corners; a thickness of -1 fills it."""
        for layer in self._layers:
            style = layer.colour(colour), layer.thickness(thickness), cv2.LINE_8
            cv2.rectangle(layer.array, corner, other, *style, shift + layer.shift)

    def text(
        self,
        text: str,
        origin: Sequence[int],
        font: int,
        scale: float,
        colour: Colour,
        thickness: int,
    ) -> None:
        """Draw ASCII text, whose lower left corner is given in pixels."""
        for layer in self._layers:
            place = tuple(each >> layer.shift for each in origin)
            style = layer.colour(colour), layer.thickness(thickness), layer.kind(cv2.LINE_AA)
            cv2.putText(layer.array, text, place, font, scale / 2**layer.shift, *style)


def target_of(image: np.ndarray) -> Target:
    """The target that is an image (H, W, 3), uint8, BGR."""
    return Target([Layer(image)])


@cache
def _yuv(colour: Colour) -> tuple[int, int, int]:
    """Luma and chroma by BT.601, limited range."""
    pixels = np.full((2, 2, 3), colour, np.uint8)
    return tuple(cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420)[[0, 2, 2], [0, 0, 1]].tolist())


class Canvas:
    """Makes pictures of decoded frames that need no conversion; used by several threads.

    Memory is used again, since the system would have to clear new memory for every picture.

    Args:
        size: Width and height of the pictures, both even.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._free: SimpleQueue[av.VideoFrame] = SimpleQueue()

    def accepts(self, frame: 'av.VideoFrame') -> bool:
        """Whether a decoded frame has the size, orientation and colours of the pictures."""
        return (
            frame.format.name == 'yuv420p'
            and (frame.width, frame.height) == self._size
            and frame.colorspace in _MATRICES
            and frame.color_range != _FULL
            and not is_turned(frame)
        )

    def paint(self, frame: 'av.VideoFrame', draw: Callable[[Target], None]) -> 'av.VideoFrame':
        """Copy a decoded frame, on which others may depend, and draw on the copy.

        Args:
            frame: Frame that :meth:`accepts` accepts.
            draw: Draws on the copy.
        """
        picture = self._new()
        planes = list(_planes(picture))
        for plane, source in zip(planes, _planes(frame), strict=True):
            plane[:] = source
        draw(Target([Layer(plane, index) for index, plane in enumerate(planes)]))
        return picture

    def release(self, picture: 'av.VideoFrame') -> None:
        """Use the memory of a picture of this size again; it must not be used otherwise."""
        self._free.put(picture)

    def _new(self) -> 'av.VideoFrame':
        import av

        try:
            picture = self._free.get_nowait()
            picture.make_writable()  # if an encoder still has it
        except Empty:
            picture = av.VideoFrame(*self._size, 'yuv420p')
        picture.colorspace, picture.color_range = BT601, LIMITED
        return picture


def _planes(frame: 'av.VideoFrame') -> Iterator[np.ndarray]:
    """Views of the planes of a frame: luma (H, W), and twice chroma (H / 2, W / 2)."""
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8, plane.line_size * plane.height)
        yield rows.reshape(plane.height, plane.line_size)[:, : plane.width]
