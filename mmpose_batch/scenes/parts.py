"""The parts of a figure: volumes in the image, built from the joints of a body."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .body import DOWN, FORWARD, HEAD, HIP, SHOULDER, SIDES, Body
from .face import FEATURES, features
from .outfit import ELBOW_PAD, KNEE_PAD, SOCK, SWEATBAND, Material, Outfit

# Distance of the camera in heights of the body, for the perspective.
CAMERA_DISTANCE = 4.0


@dataclass(frozen=True)
class Part:
    """A volume between two discs, or a head; places in pixels.

    Attributes:
        name: Name of the part.
        ends: (2, 2), x and y of both discs.
        radii: (2,), half widths at the ends.
        depth: Larger is farther away.
        material: Material of the surface.
        joints: Names of the keypoints that lie in it.
        facing: 1 if the front is visible, -1 if the back is; 0 for parts without a front.
        head: Orientation, for the head only.
        hull: (N, 2), outline of a part that is not the hull of its two discs.
    """

    name: str
    ends: np.ndarray
    radii: np.ndarray
    depth: float
    material: Material
    joints: tuple[str, ...] = ()
    facing: float = 0.0
    head: np.ndarray | None = None
    hull: np.ndarray | None = None


@dataclass(frozen=True)
class Projection:
    """The camera: from the frame of a body to pixels.

    Attributes:
        height: Height of the standing body in pixels.
        center: x and y of the middle of the hips, in pixels.
    """

    height: float
    center: np.ndarray

    def place(self, point: np.ndarray) -> np.ndarray:
        """Project a point (3,) of the body into the image."""
        return self.center + self.height * point[:2] * self.nearness(point)

    @staticmethod
    def nearness(point: np.ndarray) -> float:
        """Scale at a point, 1 at the middle of the hips."""
        return CAMERA_DISTANCE / (CAMERA_DISTANCE + point[2])


def build_parts(body: Body, outfit: Outfit, projection: Projection) -> list[Part]:
    """All parts of a figure, from the farthest to the nearest."""
    builder = _Builder(body, outfit, projection)
    parts = [*builder.trunk(), *builder.head()]
    for side, _ in SIDES:
        parts += builder.arm(side) + builder.leg(side)
    return sorted(parts, key=lambda part: -part.depth)


class _Builder:
    """Builds the parts of one figure; lengths are in heights of the body."""

    def __init__(self, body: Body, outfit: Outfit, projection: Projection) -> None:
        self._body, self._outfit, self._projection = body, outfit, projection

    def _between(
        self, name: str, a: str | np.ndarray, b: str | np.ndarray, radii: tuple[float, float],
        material: Material, joints: tuple[str, ...] = (), nearer: float = 0.0, **more: Any,
    ) -> Part:  # fmt: skip
        p, q = (self._body.joints[x] if isinstance(x, str) else x for x in (a, b))
        nearness = np.array([self._projection.nearness(p), self._projection.nearness(q)])
        sizes = (np.array(radii) * self._projection.height * nearness).astype(np.float32)
        ends = np.array([self._projection.place(p), self._projection.place(q)], np.float32)
        return Part(name, ends, sizes, (p[2] + q[2]) / 2 - nearer, material, joints, **more)

    def arm(self, side: str) -> list[Part]:
        wear, girth, joints = self._outfit, self._outfit.girth, self._body.joints
        shoulder, elbow, wrist = (joints[f'{side}_{j}'] for j in ('shoulder', 'elbow', 'wrist'))
        upper = wear.sleeve if wear.sleeves >= 1 else wear.skin
        lower = wear.sleeve if wear.sleeves > 1 else wear.skin
        parts = [
            self._between(f'{side}_upper_arm', shoulder, elbow, (0.034 * girth, 0.026 * girth),
                          upper, (f'{side}_shoulder', f'{side}_elbow'), 0.012),
            self._between(f'{side}_forearm', elbow, wrist, (0.026 * girth, 0.019 * girth), lower,
                          (f'{side}_elbow', f'{side}_wrist'), 0.014),
            self._between(f'{side}_hand', wrist, f'{side}_hand', (0.019 * girth, 0.022 * girth),
                          wear.skin, (f'{side}_wrist',), 0.016),
            self._around(f'{side}_elbow', wrist, 0.013, 0.036 * girth, ELBOW_PAD, 0.03),
            self._around(f'{side}_wrist', elbow, 0.017, 0.029 * girth, SWEATBAND, 0.03),
        ]  # fmt: skip
        if wear.sleeves < 1:  # a T-shirt
            end = shoulder + 0.5 * (elbow - shoulder)
            parts.append(
                self._between(f'{side}_sleeve', shoulder, end, (0.038 * girth, 0.036 * girth),
                              wear.sleeve, (f'{side}_shoulder',), 0.02)
            )  # fmt: skip
        return parts

    def leg(self, side: str) -> list[Part]:
        wear, girth, joints = self._outfit, self._outfit.girth, self._body.joints
        hip, knee, ankle = (joints[f'{side}_{j}'] for j in ('hip', 'knee', 'ankle'))
        bare = wear.legs < 1
        parts = [
            self._between(f'{side}_thigh', hip, knee, (0.062 * girth, 0.043 * girth),
                          wear.trousers, (f'{side}_hip', f'{side}_knee'), 0.002),
            self._between(f'{side}_shin', knee, ankle, (0.041 * girth, 0.027 * girth),
                          wear.skin if bare else wear.trousers,
                          (f'{side}_knee', f'{side}_ankle')),
            self._between(f'{side}_foot', ankle, f'{side}_toe', (0.03 * girth, 0.022 * girth),
                          wear.shoes, (f'{side}_ankle',), 0.004),
            self._around(f'{side}_knee', ankle, 0.012, 0.044 * girth, KNEE_PAD, 0.035),
            self._around(f'{side}_ankle', knee, 0.014, 0.033 * girth, SOCK, 0.05),
        ]  # fmt: skip
        return parts

    def _around(
        self, joint: str, toward: np.ndarray, half: float, radius: float, material: Material,
        nearer: float,
    ) -> Part:  # fmt: skip
        """A pad or band around a joint, along the bone that leads from it."""
        place = self._body.joints[joint]
        bone = toward - place
        bone *= half / np.linalg.norm(bone)
        ends = place - bone, place + bone
        return self._between(
            f'{joint}_wear', *ends, (radius, radius), material, (joint,), nearer
        )  # fmt: skip

    def trunk(self) -> list[Part]:
        """The hull of shoulders, belly and hips, the neck, and a skirt."""
        wear, joints, girth = self._outfit, self._body.joints, self._outfit.girth
        shoulders = [joints[f'{side}_shoulder'] for side, _ in SIDES]
        hips = [joints[f'{side}_hip'] for side, _ in SIDES]
        middle = sum(hips) / 2
        names = tuple(f'{side}_{joint}' for side, _ in SIDES for joint in ('shoulder', 'hip'))
        hull = self._hull(
            [*((p, 0.034) for p in shoulders), *((p, 0.058 * girth) for p in hips),
             (joints['neck'] + self._body.chest @ DOWN * 0.09, 0.085 * girth)]
        )  # fmt: skip
        front = (self._body.chest @ FORWARD)[2]
        parts = [
            self._between('trunk', 'neck', middle, (SHOULDER, HIP + 0.05), wear.shirt, names,
                          hull=hull, facing=-front),
            self._between('neck', 'neck', 'head', (0.036, 0.033), wear.skin, nearer=0.003),
        ]  # fmt: skip
        if wear.skirt:
            knees = [joints[f'{side}_knee'] for side, _ in SIDES]
            ends = [hip + 0.8 * (knee - hip) for hip, knee in zip(hips, knees, strict=True)]
            hull = self._hull([*((p, 0.06) for p in hips), *((p, 0.07) for p in ends)])
            parts.append(
                self._between('skirt', middle, sum(ends) / 2, (HIP + 0.06, HIP + 0.08),
                              wear.trousers, names[1::2], 0.03, hull=hull)
            )  # fmt: skip
        return parts

    def _hull(self, rounds: list[tuple[np.ndarray, float]]) -> np.ndarray:
        camera = self._projection
        centers = np.array([camera.place(point) for point, _ in rounds])
        radii = [radius * camera.height * camera.nearness(point) for point, radius in rounds]
        return cv2.convexHull(discs(centers, np.array(radii)).reshape(-1, 2))[:, 0]

    def head(self) -> list[Part]:
        wear, center, head = self._outfit, self._body.joints['head'], self._body.head
        places = features(self._body)
        parts = []
        for side, _ in SIDES:
            ear = places[f'{side}_ear']
            parts.append(
                self._between(f'{side}_ear_part', ear - head @ DOWN * 0.012,
                              ear + head @ DOWN * 0.012, (0.022, 0.019), wear.skin,
                              (f'{side}_ear',))
            )  # fmt: skip
        top, chin = center - head @ DOWN * 0.02, center + head @ DOWN * 0.02
        parts.append(
            self._between('head', top, chin, (HEAD, HEAD * 0.88), wear.skin,
                          tuple(FEATURES), 0.02, head=head.astype(np.float32))
        )  # fmt: skip
        if wear.long_hair:
            back = center - head @ FORWARD * 0.035
            parts.append(
                self._between('hair', back, back + head @ DOWN * 0.13, (HEAD * 0.95, HEAD * 0.8),
                              wear.hair)
            )  # fmt: skip
        return parts


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], -1)


def discs(centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Outlines, float32 (..., 20, 2), of discs.

    Args:
        centers: (..., 2), x and y.
        radii: (...).
    """
    return (centers[..., None, :] + _CIRCLE * radii[..., None, None]).astype(np.float32)
