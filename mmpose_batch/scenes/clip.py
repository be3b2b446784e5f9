"""Synthetic videos of people who walk, turn, cross each other, come and go."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from .backdrop import Imaging, Obstacle, draw_background
from .body import pose_body
from .canvas import Canvas
from .figure import Figure
from .motion import Visit, sample_visit
from .outfit import Outfit, sample_outfit
from .scene import Scene, SceneOptions, describe, sample_light

# Number of places at which the noise of a frame may begin.
_NOISES = 50_021
_MIN_FPS, _MAX_FPS = 0.01, 1000
# Number of ways from which that of a person is chosen.
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class ClipOptions(SceneOptions):
    """The contents of videos.

    The number of persons is that at the same time: each person who leaves is followed by another.
    Those who are entering, leaving or hidden may not be visible.

    Attributes:
        seconds: Length of a video.
        fps: Frames per second.
        speed: Speed of all motion. People walk as in reality at 1: in five frames of 25 fps, boxes
            move by a fifth of their width in the median, and at 2 by two fifths.
        size: Width and height in pixels, even numbers. The demo models are less accurate on wide
            images, since these are scaled down more.
        cuts: Frames with which another shot begins: with other people at another place.
    """

    heights: tuple[float, float] = (0.5, 0.95)
    seconds: float = 10.0
    fps: float = 25.0
    speed: float = 1.0
    size: tuple[int, int] = (480, 360)
    cuts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('seconds', 'fps', 'speed'):
            if not 0 < getattr(self, name) < float('inf'):
                raise ValueError(f'{name}: expected a number > 0, found {getattr(self, name)}')
        if not _MIN_FPS <= self.fps <= _MAX_FPS:
            raise ValueError(
                f'fps: expected a number from {_MIN_FPS} to {_MAX_FPS}, found {self.fps}'
            )
        if any(length < 32 or length % 2 for length in self.size):
            raise ValueError(f'size: expected even numbers >= 32, found {self.size}')
        bounds = (0, *self.cuts, self.frames)
        if any(end <= start for start, end in pairwise(bounds)):
            raise ValueError(
                f'cuts: expected increasing frame numbers from 1 to {self.frames - 1}, '
                f'found {self.cuts}'
            )

    @property
    def rate(self) -> Fraction:
        """Frames per second, as an exact number."""
        return Fraction(self.fps).limit_denominator(1001)

    @property
    def frames(self) -> int:
        """Number of frames of a video, at least 1."""
        return max(1, round(self.seconds * self.rate))


def draw_clip(seed: int, index: int, options: ClipOptions | None = None) -> Iterator[Scene]:
    """Draw the frames of one video; the same seed and index give the same video.

    Args:
        seed: Seed of the series.
        index: Index of the video in the series.
        options: Contents of the video.

    Yields:
        The frames, with a ``track_id`` for each person.
    """
    options = options or ClipOptions()
    bounds = (0, *options.cuts, options.frames)
    tracks = 0
    for number, (start, end) in enumerate(pairwise(bounds)):
        rng = np.random.default_rng((seed, index, number))
        shot = _Shot(rng, options, (end - start) / options.rate, tracks)
        tracks += len(shot.walkers)
        for frame in range(end - start):
            yield shot.draw(float(frame / options.rate) * options.speed)


@dataclass(frozen=True)
class _Walker:
    """A person of a shot.

    Attributes:
        outfit: Clothes, skin and hair.
        size: Usual height of the standing body in pixels.
        ground: Row of the image at which the person stands.
        visit: The motion.
    """

    outfit: Outfit
    size: float
    ground: float
    visit: Visit


class _Shot:
    """Frames without a cut: one background, light, camera and sequence of people.

    Args:
        rng: The generator.
        options: Contents of the video.
        seconds: Length of the shot.
        tracks: Number of persons in earlier shots.
    """

    def __init__(
        self, rng: np.random.Generator, options: ClipOptions, seconds: Fraction, tracks: int
    ) -> None:
        width, height = options.size
        self._rng, self._tracks = rng, tracks
        self._background = draw_background(rng, width, height)
        self._light = sample_light(rng)
        self._imaging = Imaging.sample(rng, width * height * 3 + _NOISES)
        obstacles = rng.integers(0, options.occluders + 1)
        # Each with the size of the persons that it hides: those who are smaller are behind it.
        self._obstacles = [
            (np.exp(rng.uniform(*np.log(options.heights))) * height,
             Obstacle.sample(rng, width, height))
            for _ in range(obstacles)
        ]  # fmt: skip
        self.walkers = _sample_walkers(rng, options, float(seconds) * options.speed)

    def draw(self, time: float) -> Scene:
        """Draw the frame at a time, in seconds at the usual speed."""
        canvas = Canvas(self._background.copy())
        layers: list[tuple[float, int, Figure | Obstacle]] = [
            (size, -1, obstacle) for size, obstacle in self._obstacles
        ]
        for number, walker in enumerate(self.walkers):
            moment = walker.visit.at(time)
            if moment is not None:
                size = walker.size * moment.scale
                body = pose_body(moment.pose)
                feet = max(body.joints[f'{side}_ankle'][1] for side in ('left', 'right'))
                center = np.array([moment.place, walker.ground - size * feet])
                figure = Figure(body, walker.outfit, size, center, *self._light)
                layers.append((size, number, figure))
        layers.sort(key=lambda layer: layer[:2])  # from far to near
        for _, number, layer in layers:
            layer.draw(canvas, number) if number >= 0 else layer.draw(canvas)
        figures = sorted(layer[1:] for layer in layers if layer[1] >= 0)
        persons = [
            describe(figure, canvas, number, self._tracks + number + 1)
            for number, figure in figures
        ]
        image = self._imaging.apply(canvas.colors, self._rng.integers(_NOISES))
        return Scene(image, [person for person in persons if person is not None])


def _sample_walkers(rng: np.random.Generator, options: ClipOptions, end: float) -> list[_Walker]:
    """All persons of a shot, in the order in which they enter."""
    width, height = options.size
    seen_from = rng.uniform(-5, 25)
    times = np.arange(0, end, 0.25)
    walkers: list[_Walker] = []
    ways: list[np.ndarray] = []
    for _ in range(rng.integers(options.persons[0], options.persons[1] + 1)):
        start = None
        while start is None or start < end:
            size = np.exp(rng.uniform(*np.log(options.heights))) * height
            # As in a scene, but low enough that the picture has room for the head.
            ground = max(height * rng.uniform(0.6, 0.95) + 0.1 * size, size)
            # The freest of several ways, so that people cross but rarely stay behind one another.
            visits = [sample_visit(rng, width, size, seen_from, start) for _ in range(_TRIES)]
            visit = min(visits, key=lambda visit: _crowding(visit.places(times), ways, 0.4 * size))
            ways.append(visit.places(times))
            walkers.append(_Walker(sample_outfit(rng), size, ground, visit))
            start = visit.end + rng.uniform(0, 0.5)
    return sorted(walkers, key=lambda walker: walker.visit.start)


def _crowding(way: np.ndarray, others: list[np.ndarray], reach: float) -> float:
    """Mean number of persons within reach of a person, who count less the farther they are.

    Args:
        way: Places (T,) of the person in pixels; NaN where the person is absent.
        others: Places (T,) of each other person.
        reach: Distance in pixels at which others do not count.
    """
    present = np.flatnonzero(~np.isnan(way))
    if not len(present) or not others:
        return 0.0
    distances = np.abs(way[present] - np.array([other[present] for other in others]))
    return np.nansum(np.maximum(1 - distances / reach, 0)) / len(present)
