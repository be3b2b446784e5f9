"""One synthetic image of people, with annotations as in COCO."""

from dataclasses import dataclass

import numpy as np

from .backdrop import develop, draw_background, draw_object
from .body import sample_body
from .canvas import Canvas
from .figure import Figure
from .outfit import sample_outfit

SIZES = (
    (320, 240), (240, 320), (384, 288), (288, 384), (320, 320),
    (426, 240), (480, 320), (320, 480), (512, 384), (640, 480),
)  # fmt: skip
# Behind more persons, none would be visible.
MAX_PERSONS = 200


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """The contents of scenes.

    Attributes:
        persons: Minimum and maximum number of people.
        heights: Minimum and maximum height of a standing body, in heights of the image.
        occluders: Maximum number of objects in front of people.
    """

    persons: tuple[int, int] = (1, 3)
    heights: tuple[float, float] = (0.4, 0.95)
    occluders: int = 1

    def __post_init__(self) -> None:
        low, high = self.persons
        if not 0 <= low <= high <= MAX_PERSONS:
            raise ValueError(
                f'persons: expected 0 <= minimum <= maximum <= {MAX_PERSONS}, found {self.persons}'
            )
        if not 0 < self.heights[0] <= self.heights[1]:
            raise ValueError(f'heights: expected 0 < minimum <= maximum, found {self.heights}')
        if self.occluders < 0:
            raise ValueError(f'occluders: expected an integer >= 0, found {self.occluders}')


@dataclass(frozen=True)
class Person:
    """One annotation.

    Attributes:
        keypoints: float (17, 3): x and y in pixels and COCO's visibility; zeros
            where it is 0.
        bbox: float (4,): x, y, width, height of the visible part, in pixels.
        area: Number of visible pixels.
        track_id: Number of the person in a video; None in an image.
    """

    keypoints: np.ndarray
    bbox: np.ndarray
    area: int
    track_id: int | None = None


@dataclass(frozen=True)
class Scene:
    """An image, uint8 (H, W, 3) in BGR, and the people in it."""

    image: np.ndarray
    persons: list[Person]


def draw_scene(seed: int, index: int, options: SceneOptions | None = None) -> Scene:
    """Draw one scene; the same seed and index give the same scene.

    Args:
        seed: Seed of the series.
        index: Index of the scene in the series.
        options: Contents of the scene.
    """
    options = options or SceneOptions()
    rng = np.random.default_rng((seed, index))
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = Canvas(draw_background(rng, width, height))
    figures = _sample_figures(rng, width, height, options)
    occluders = rng.integers(0, options.occluders + 1)
    after = rng.integers(0, max(len(figures), 1), occluders)
    for owner, figure in enumerate(figures):
        figure.draw(canvas, owner)
        for _ in range(np.count_nonzero(after == owner)):
            draw_object(rng, canvas)
    persons = [describe(figure, canvas, owner) for owner, figure in enumerate(figures)]
    return Scene(develop(rng, canvas.colors), [person for person in persons if person is not None])


def _sample_figures(
    rng: np.random.Generator, width: int, height: int, options: SceneOptions
) -> list[Figure]:
    """Figures from far to near; those farther away are smaller and higher in the image."""
    light, ambient = sample_light(rng)
    count = rng.integers(options.persons[0], options.persons[1] + 1)
    sizes = np.sort(np.exp(rng.uniform(*np.log(options.heights), count))) * height
    figures: list[Figure] = []
    places: list[float] = []
    for size in sizes:
        # The freest of five positions, so that people overlap but rarely hide one another.
        tries = rng.uniform(0.08, 0.92, 5)
        free = [min([1.0, *(abs(x - place) for place in places)]) for x in tries]
        places.append(tries[np.argmax(free)])
        ground = height * rng.uniform(0.6, 0.95) + 0.1 * size
        center = np.array([places[-1] * width, ground - 0.45 * size])
        body, outfit = sample_body(rng), sample_outfit(rng)
        figures.append(Figure(body, outfit, size, center, light, ambient))
    return figures


def sample_light(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Direction (3,) towards the light, a unit vector, and the fraction that is ambient."""
    light = rng.normal(0, 1, 3) * (1, 0.6, 0.5) + (0, -0.7, -1.0)
    return light / np.linalg.norm(light), rng.uniform(0.35, 0.75)


# A person with fewer visible pixels is not annotated: a hand at the border is not detectable.
_MIN_PIXELS = 60
# With fewer visible keypoints, none is labelled, since the others could only be guessed.
_MIN_SEEN = 4


def describe(
    figure: Figure, canvas: Canvas, owner: int, track_id: int | None = None
) -> Person | None:
    """Annotate a figure of a finished canvas.

    Args:
        figure: The figure.
        canvas: The image.
        owner: Number of the figure.
        track_id: Number of the person in a video.

    Returns:
        The annotation; None if too little of the figure is visible.
    """
    seen = canvas.owners == owner
    area = int(np.count_nonzero(seen))
    if area < _MIN_PIXELS:
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    left, top = columns[0], rows[0]
    bbox = np.array([left, top, columns[-1] + 1 - left, rows[-1] + 1 - top], float)
    flags = figure.visible_keypoints(canvas, owner)
    if np.count_nonzero(flags == 2) < _MIN_SEEN:
        flags[:] = 0
    keypoints = np.column_stack((figure.keypoints()[0], flags))
    keypoints[flags == 0] = 0
    return Person(keypoints, bbox, area, track_id)
