"""How people move in a video: when they come and go, where they walk, how their bodies move.

Times are in seconds at the usual speed; a faster video passes through them faster.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, NamedTuple

import numpy as np

from .body import POSTURES, LimbPose, Pose, sample_pose

# The postures of people who stand: arms that hang, gesture, and are raised.
_STANDING = POSTURES[:3]
# Seconds before and after the end of a phase in which it changes into the next one.
_BLEND = 0.2
# Distance from the border, in heights of the body, at which nothing of a person is visible.
_OUTSIDE = 0.4
# Length of two steps, in heights of the body.
_STRIDE = 0.7


class Moment(NamedTuple):
    """A person at one time: horizontal place in pixels, size relative to its usual one, angles."""

    place: float
    scale: float
    pose: Pose


class _Span(NamedTuple):
    """A phase of a visit: its time, and its place and scale at the start and at the end."""

    start: float
    end: float
    places: tuple[float, float]
    scales: tuple[float, float]

    def progress(self, time: float) -> float:
        return (time - self.start) / (self.end - self.start)

    def at(self, time: float, pose: Pose) -> Moment:
        """The moment at a time, which may lie before or after the phase."""
        progress = self.progress(time)
        place, scale = (
            first + (last - first) * progress for first, last in (self.places, self.scales)
        )
        return Moment(place, scale, pose)


@dataclass(frozen=True)
class Walking:
    """Walking from one place to another.

    Attributes:
        span: Time and places.
        seen_from: Angle by which the camera looks down.
        yaw: Angle of the body about the vertical.
        swing: Largest angle of the hips.
        bend: Usual angle of the elbows.
        stride: Length of two steps in pixels.
    """

    span: _Span
    seen_from: float
    yaw: float
    swing: float
    bend: float
    stride: float

    def at(self, time: float) -> Moment:
        """The moment at a time, which may lie before or after the phase."""
        first, last = self.span.places
        turns = abs(last - first) * self.span.progress(time) / self.stride
        angle = 2 * pi * turns
        arms, legs = [], []
        for sign in (1, -1):
            forward, lifted = sign * self.swing * sin(angle), max(0.0, sign * cos(angle))
            legs.append(LimbPose(6 + forward, 3, 0, 8 + 1.6 * self.swing * lifted, 10))
            arms.append(LimbPose(5 - 0.9 * forward, 9, 0, self.bend - 0.4 * forward, 0))
        facing = (self.yaw + 180) % 360 - 180
        pose = Pose(
            self.yaw, self.seen_from, 0, 4, 0, 0.2 * self.swing * sin(angle),
            nod=0, head_turn=-0.4 * facing, head_tilt=0, arms=tuple(arms), legs=tuple(legs),
        )  # fmt: skip
        return self.span.at(time, pose)


@dataclass(frozen=True)
class Standing:
    """Standing with slow movements of head and arms, or turning about.

    Attributes:
        span: Time and place.
        pose: The middle of the movements.
        turn: Angle by which the body turns from the start to the end.
        rhythm: Frequency of the movements in Hz.
    """

    span: _Span
    pose: Pose
    turn: float
    rhythm: float

    def at(self, time: float) -> Moment:
        """The moment at a time, which may lie before or after the phase."""
        sway = sin(2 * pi * self.rhythm * (time - self.span.start))
        pose = self.pose
        arms = tuple(
            arm._replace(flexion=arm.flexion + 6 * sway, bend=max(0.0, arm.bend + sign * 8 * sway))
            for sign, arm in zip((1, -1), pose.arms, strict=True)
        )
        turned = self.turn * _smooth(self.span.progress(time))
        pose = pose._replace(
            yaw=pose.yaw + turned, head_turn=pose.head_turn + 8 * sway, bow=pose.bow + 2 * sway,
            arms=arms,
        )  # fmt: skip
        return self.span.at(time, pose)


@dataclass(frozen=True)
class Visit:
    """Phases of one person, from entering the picture to leaving it."""

    phases: list[Walking | Standing]

    @property
    def start(self) -> float:
        """Time at which the person enters."""
        return self.phases[0].span.start

    @property
    def end(self) -> float:
        """Time at which the person has left."""
        return self.phases[-1].span.end

    def at(self, time: float) -> Moment | None:
        """The moment at a time; None if the person is not there."""
        if not self.start <= time < self.end:
            return None
        ends = [phase.span.end for phase in self.phases]
        number = bisect_right(ends, time)
        moment = self.phases[number].at(time)
        for other, boundary in ((number - 1, number - 1), (number + 1, number)):
            if 0 <= other < len(ends) and abs(time - ends[boundary]) < _BLEND:
                weight = _smooth(0.5 - abs(time - ends[boundary]) / (2 * _BLEND))
                moment = _blend(moment, self.phases[other].at(time), weight)
        return moment

    def places(self, times: np.ndarray) -> np.ndarray:
        """Horizontal places in pixels, accurate to a few; NaN when the person is not there."""
        spans = [phase.span for phase in self.phases]
        knots = [spans[0].start, *(span.end for span in spans)]
        values = [spans[0].places[0], *(span.places[1] for span in spans)]
        return np.interp(times, knots, values, left=np.nan, right=np.nan)


def sample_visit(
    rng: np.random.Generator, width: int, size: float, seen_from: float, start: float | None
) -> Visit:
    """Sample where a person walks and stands.

    Args:
        rng: The generator.
        width: Width of the image in pixels.
        size: Usual height of the standing body in pixels.
        seen_from: Angle by which the camera looks down, in degrees.
        start: Time at which the person enters; None for one who is in the picture at time 0.
    """
    outside = _OUTSIDE * size
    borders = (-outside, width + outside)
    side = rng.integers(2)
    stops = rng.uniform(0.1, 0.9, rng.integers(0, 4)) * width
    leaving = 1 - side if rng.random() < 0.7 else side
    if not len(stops) and leaving == side:
        leaving = 1 - side
    places = [borders[side], *stops, borders[leaving]]
    scales = rng.uniform(0.92, 1.08, len(places))
    phases: list[Walking | Standing] = []
    time, turned = 0.0, 0.0
    for number, place in enumerate(places[1:], 1):
        route = (places[number - 1], place), (scales[number - 1], scales[number])
        phases.append(_sample_walk(rng, time, route, size, seen_from, turned))
        time = phases[-1].span.end
        if number < len(places) - 1:
            phases.append(_sample_stand(rng, time, (place, scales[number]), seen_from, turned))
            time, turned = phases[-1].span.end, turned + phases[-1].turn
    if start is None:
        first = phases[0].span.end * outside / (outside + abs(places[1] - places[0]))
        start = -rng.uniform(min(first, 0.5 * time), 0.7 * time)
    return Visit([_later(phase, start) for phase in phases])


def _sample_walk(
    rng: np.random.Generator, start: float, route: tuple, size: float, seen_from: float,
    turned: float,
) -> Walking:  # fmt: skip
    (first, last), scales = route
    pace = rng.uniform(0.45, 0.8)  # heights of the body in a second
    duration = max(abs(last - first) / (pace * size), 2 * _BLEND)
    yaw = turned - np.sign(last - first) * rng.uniform(8, 35)
    span = _Span(start, start + duration, (first, last), scales)
    bend, stride = rng.uniform(15, 60), _STRIDE * size * rng.uniform(0.9, 1.1)
    return Walking(span, seen_from, yaw, 10 + 18 * pace, bend, stride)


def _sample_stand(
    rng: np.random.Generator, start: float, position: tuple[float, float], seen_from: float,
    turned: float,
) -> Standing:  # fmt: skip
    weights = np.array([posture.weight for posture in _STANDING])
    posture = _STANDING[rng.choice(len(_STANDING), p=weights / weights.sum())]
    pose = sample_pose(rng, posture)
    yaw = (pose.yaw if abs(pose.yaw) < 60 else 0) + turned
    turn = rng.choice((-360, 360)) if rng.random() < 0.1 else rng.uniform(-25, 25)
    duration = max(rng.uniform(0.6, 2.5), abs(turn) / 200)
    place, scale = position
    span = _Span(start, start + duration, (place, place), (scale, scale))
    pose = pose._replace(yaw=yaw, seen_from=seen_from)
    return Standing(span, pose, turn, rng.uniform(0.2, 0.6))


def _later(phase: Walking | Standing, seconds: float) -> Any:
    span = phase.span
    moved = span._replace(start=span.start + seconds, end=span.end + seconds)
    return type(phase)(**{**vars(phase), 'span': moved})


def _smooth(progress: float) -> float:
    """From 0 at 0 to 1 at 1, without a corner; constant outside."""
    progress = min(max(progress, 0.0), 1.0)
    return progress * progress * (3 - 2 * progress)


def _blend(first: Any, second: Any, weight: float) -> Any:
    """Mean of two nested tuples of numbers."""
    if not isinstance(first, tuple):
        return first + (second - first) * weight
    values = [_blend(one, two, weight) for one, two in zip(first, second, strict=True)]
    return type(first)(*values) if hasattr(first, '_fields') else tuple(values)
