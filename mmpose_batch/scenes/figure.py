"""Drawing a body: clothes, skin, hair and a face on shaded volumes, back to front."""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from .body import DOWN, FORWARD, HEAD, HIP, KEYPOINTS, SHOULDER, SIDES, SKELETON, Body
from .outfit import BELT, ELBOW_PAD, KNEE_PAD, SOCK, SWEATBAND, Material, Outfit

# How strongly distance shrinks: the camera stands this many heights of the body away.
CAMERA_DISTANCE = 4.0

# Where on a head of radius 1 its features are: to its left, down and back.
_FEATURES = {
    'nose': (0.0, 0.12, -0.98),
    'left_eye': (0.36, -0.14, -0.9),
    'right_eye': (-0.36, -0.14, -0.9),
    'left_ear': (1.0, 0.0, 0.08),
    'right_ear': (-1.0, 0.0, 0.08),
}
# A feature of the face is seen where its normal turns towards the camera by this much.
_FACING = 0.12


@dataclass
class Canvas:
    """An image under construction.

    Attributes:
        colors: float32 (H, W, 3), RGB from 0 to 255.
        owners: int16 (H, W), the figure that a pixel shows; -1 for none.
        parts: int16 (H, W), the part of that figure.
    """

    colors: np.ndarray
    owners: np.ndarray = field(init=False)
    parts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.owners = np.full(self.colors.shape[:2], -1, np.int16)
        self.parts = np.full(self.colors.shape[:2], -1, np.int16)


@dataclass(frozen=True)
class Part:
    """A volume between two discs, or a head; places in pixels.

    Attributes:
        name: Of the part.
        ends: (2, 2), x and y of both discs.
        radii: (2,), half widths at the ends.
        depth: Larger is farther away.
        material: Of the surface.
        joints: Names of the keypoints that lie in it.
        facing: 1 where the front is seen, -1 the back; 0 for parts without.
        head: Orientation, for the head only.
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


class Figure:
    """A body in an image: where its parts and keypoints are, and how it is drawn.

    Args:
        body: The pose.
        outfit: What it wears.
        height: Of the standing body, in pixels.
        center: x and y of the middle of the hips, in pixels.
        light: Unit vector (3,) towards the light.
        ambient: Share of the light that comes from everywhere.
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
        self._body, self._outfit, self._height, self._center = body, outfit, height, center
        self._light, self._ambient = light, ambient
        self.parts = sorted(self._build_parts(), key=lambda part: -part.depth)

    # ------------------------------------------------------------------ geometry

    def _place(self, point: np.ndarray) -> np.ndarray:
        """Project a point of the body into the image."""
        return self._center + self._height * point[:2] * self._nearness(point)

    @staticmethod
    def _nearness(point: np.ndarray) -> float:
        return CAMERA_DISTANCE / (CAMERA_DISTANCE + point[2])

    def keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the keypoints are and which of them face away.

        Returns:
            float (17, 2), x and y in pixels, and bool (17,), True for features of
            the face on the far side of the head.
        """
        points = {**self._body.joints, **self._features()}
        places = np.array([self._place(points[name]) for name in KEYPOINTS])
        away = np.array(
            [name in _FEATURES and not self._is_facing(name) for name in KEYPOINTS], dtype=bool
        )
        return places, away

    def _features(self) -> dict[str, np.ndarray]:
        center, head = self._body.joints['head'], self._body.head
        return {name: center + head @ np.array(p) * HEAD for name, p in _FEATURES.items()}

    def _is_facing(self, name: str) -> bool:
        normal = self._body.head @ np.array(_FEATURES[name])
        return -normal[2] / np.linalg.norm(normal) > (-0.25 if 'ear' in name else _FACING)

    def _build_parts(self) -> list[Part]:
        parts = [*self._trunk(), *self._head()]
        for side, _ in SIDES:
            parts += self._arm(side) + self._leg(side)
        return parts

    def _between(
        self, name: str, a: str | np.ndarray, b: str | np.ndarray, radii: tuple[float, float],
        material: Material, joints: tuple[str, ...] = (), nearer: float = 0.0, **more: Any,
    ) -> Part:  # fmt: skip
        p, q = (self._body.joints[x] if isinstance(x, str) else x for x in (a, b))
        nearness = np.array([self._nearness(p), self._nearness(q)])
        sizes = (np.array(radii) * self._height * nearness).astype(np.float32)
        ends = np.array([self._place(p), self._place(q)], np.float32)
        return Part(name, ends, sizes, (p[2] + q[2]) / 2 - nearer, material, joints, **more)

    def _arm(self, side: str) -> list[Part]:
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

    def _leg(self, side: str) -> list[Part]:
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
        """Something worn around a joint, along the bone that leads from it."""
        place = self._body.joints[joint]
        bone = toward - place
        bone *= half / np.linalg.norm(bone)
        ends = place - bone, place + bone
        return self._between(
            f'{joint}_wear', *ends, (radius, radius), material, (joint,), nearer
        )  # fmt: skip

    def _trunk(self) -> list[Part]:
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

    def _hull(self, discs: list[tuple[np.ndarray, float]]) -> np.ndarray:
        places = [
            _disc(self._place(point), radius * self._height * self._nearness(point))
            for point, radius in discs
        ]
        return cv2.convexHull(np.concatenate(places).astype(np.float32))[:, 0]

    def _head(self) -> list[Part]:
        wear, center, head = self._outfit, self._body.joints['head'], self._body.head
        features = self._features()
        parts = []
        for side, _ in SIDES:
            ear = features[f'{side}_ear']
            parts.append(
                self._between(f'{side}_ear_part', ear - head @ DOWN * 0.012,
                              ear + head @ DOWN * 0.012, (0.022, 0.019), wear.skin,
                              (f'{side}_ear',))
            )  # fmt: skip
        top, chin = center - head @ DOWN * 0.02, center + head @ DOWN * 0.02
        parts.append(
            self._between('head', top, chin, (HEAD, HEAD * 0.88), wear.skin,
                          ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear'), 0.02,
                          head=head.astype(np.float32))
        )  # fmt: skip
        if wear.long_hair:
            back = center - head @ FORWARD * 0.035
            parts.append(
                self._between('hair', back, back + head @ DOWN * 0.13, (HEAD * 0.95, HEAD * 0.8),
                              wear.hair)
            )  # fmt: skip
        return parts

    # ------------------------------------------------------------------- drawing

    def draw(self, canvas: Canvas, owner: int) -> None:
        """Draw the figure over what is there, and note what each pixel now shows."""
        for number, part in enumerate(self.parts):
            self._draw_part(canvas, owner, number, part)

    def _draw_part(self, canvas: Canvas, owner: int, number: int, part: Part) -> None:
        outline = part.hull if part.hull is not None else _capsule(part.ends, part.radii)
        height, width = canvas.owners.shape
        low = np.maximum(np.floor(outline.min(0)) - 1, 0).astype(int)
        high = np.minimum(np.ceil(outline.max(0)) + 2, (width, height)).astype(int)
        if (high <= low).any():
            return
        window = slice(low[1], high[1]), slice(low[0], high[0])
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        fixed_point = np.round((outline - low) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed_point, 255, cv2.LINE_AA, 4)
        x = np.arange(low[0], high[0], dtype=np.float32)[None]
        y = np.arange(low[1], high[1], dtype=np.float32)[:, None]
        along, across = _coordinates(part, x, y)
        colors = (
            self._head_colors(part, x, y)
            if part.head is not None
            else part.material.at(along, across)
        )
        if part.facing:
            colors = _with_front(colors, part, along, across)
            colors = _with_waist(colors, along, self._outfit.trousers.color)
        light = self._lit(part, across)
        alpha = mask[..., None].astype(np.float32) / 255
        canvas.colors[window] += alpha * (colors * light[..., None] - canvas.colors[window])
        solid = mask > 127
        canvas.owners[window][solid] = owner
        canvas.parts[window][solid] = number

    def _lit(self, part: Part, across: np.ndarray) -> np.ndarray:
        """Light on a cylinder about the axis of a part, by the cosine of its angle."""
        axis = part.ends[1] - part.ends[0]
        sideways = np.array([-axis[1], axis[0]]) / max(np.hypot(*axis), 1e-6)
        toward = np.sqrt(np.maximum(1 - across**2, 0))
        cosine = across * float(sideways @ self._light[:2]) - toward * float(self._light[2])
        return self._ambient + (1 - self._ambient) * np.maximum(cosine, 0)

    def _head_colors(self, part: Part, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Skin, hair, eyes, nose and mouth, each where the surface of a ball has it."""
        center, radius = part.ends.mean(0), part.radii.max() * 1.12
        u, v = (x - center[0]) / radius, (y - center[1]) / radius
        toward = np.sqrt(np.maximum(1 - u**2 - v**2, 0))
        surface = (
            np.stack(np.broadcast_arrays(u, v, -toward), -1) @ part.head
        )  # in the frame of the head
        left, down, back = surface[..., 0], surface[..., 1], surface[..., 2]
        skin, hair = self._outfit.skin.color, self._outfit.hair
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

    # ---------------------------------------------------------------- visibility

    def visible_keypoints(self, canvas: Canvas, owner: int) -> np.ndarray:
        """COCO's visibility (17,) of each keypoint: 2 seen, 1 hidden, 0 not labelled.

        A hidden one is labelled if two of its neighbours in the skeleton are seen, as
        shoulder and wrist of an elbow. Where a limb ends out of sight nobody could tell.
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


def _with_front(
    colors: np.ndarray, part: Part, along: np.ndarray, across: np.ndarray
) -> np.ndarray:
    """A neckline and buttons on the front of a shirt, which tell it from the back."""
    if part.facing < 0.25:
        return colors
    colors = colors.copy()
    neckline = along < 0.16 - 0.5 * np.abs(across)
    buttons = (np.abs(across) < 0.05) & (along % 0.2 < 0.06) & (along > 0.2)
    colors[neckline] = colors[neckline] * 0.5
    colors[buttons] = 255 - part.material.color
    return colors


def _with_waist(colors: np.ndarray, along: np.ndarray, trousers: np.ndarray) -> np.ndarray:
    """Where a shirt ends: a belt, and trousers below it."""
    colors = np.where((along > 0.86)[..., None], BELT.color, colors)
    return np.where((along > 0.95)[..., None], trousers, colors)


def _coordinates(part: Part, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places along the axis of a part (0 to 1) and across it (-1 to 1)."""
    axis = part.ends[1] - part.ends[0]
    square = np.float32(max(axis @ axis, 1e-6))
    dx, dy = x - part.ends[0, 0], y - part.ends[0, 1]
    along = (dx * axis[0] + dy * axis[1]) / square
    half_width = part.radii[0] + np.clip(along, 0, 1) * (part.radii[1] - part.radii[0])
    across = (dy * axis[0] - dx * axis[1]) / np.sqrt(square) / half_width
    return along, np.clip(across, -1, 1)


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], -1)


def _disc(center: np.ndarray, radius: float) -> np.ndarray:
    return center + _CIRCLE * radius


def _capsule(ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    discs = [_disc(end, radius) for end, radius in zip(ends, radii, strict=True)]
    return cv2.convexHull(np.concatenate(discs).astype(np.float32))[:, 0]
