"""A body: bones, the limits of its joints, and poses drawn at random within them.

Frame: x to the right of the image, y down, z away from the camera. A body at
rest stands upright and faces the camera, so its left is at +x. Lengths are in
heights of the body; the origin is the middle of the hips.
"""

from dataclasses import dataclass
from math import radians
from typing import NamedTuple

import numpy as np

DOWN, FORWARD = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
SIDES = (('left', 1), ('right', -1))

# Half widths and lengths of the bones, after Drillis and Contini's segment lengths,
# with a head clearly larger, so that faces show in small figures.
HIP, SHOULDER = 0.07, 0.115
SPINE, NECK, HEAD = 0.29, 0.05, 0.1
UPPER_ARM, FOREARM, HAND = 0.165, 0.145, 0.055
THIGH, SHIN, FOOT = 0.235, 0.225, 0.085

# The 17 keypoints of COCO, in its order.
KEYPOINTS = (
    'nose',
    *(f'{side}_{name}' for name in ('eye', 'ear') for side in ('left', 'right')),
    *(f'{side}_{name}' for name in ('shoulder', 'elbow', 'wrist') for side in ('left', 'right')),
    *(f'{side}_{name}' for name in ('hip', 'knee', 'ankle') for side in ('left', 'right')),
)
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


@dataclass(frozen=True)
class Limb:
    """Minimum and maximum angle of each movement of one arm or leg, in degrees.

    Attributes:
        flexion: Angle of the shoulder or hip, forward.
        abduction: Angle of the shoulder or hip, away from the body.
        twist: Angle about the bone.
        bend: Angle of the elbow or knee.
    """

    flexion: tuple[float, float]
    abduction: tuple[float, float]
    twist: tuple[float, float]
    bend: tuple[float, float]


@dataclass(frozen=True)
class Posture:
    """A family of poses: ranges of angles in degrees, within the limits of a body.

    Attributes:
        weight: Relative frequency.
        arms, legs: One range for both sides, sampled separately.
        lean: Angle of the trunk, forward.
        tilt: Angle of the complete body, to a side.
    """

    weight: float
    arms: Limb
    legs: Limb
    lean: tuple[float, float] = (-5, 12)
    tilt: tuple[float, float] = (-6, 6)


_HANGING = Limb((-25, 35), (3, 25), (-30, 30), (0, 60))
_ANY_ARM = Limb((-40, 160), (0, 100), (-70, 70), (0, 145))
_UPRIGHT = Limb((-8, 12), (0, 14), (-20, 20), (0, 12))

POSTURES = (
    Posture(0.6, _HANGING, _UPRIGHT),
    Posture(0.07, _ANY_ARM, _UPRIGHT),
    Posture(0.03, Limb((90, 175), (0, 50), (-40, 40), (0, 90)), _UPRIGHT),
    Posture(0.2, Limb((-40, 60), (2, 20), (-20, 20), (10, 100)),
            Limb((-25, 50), (0, 10), (-10, 10), (0, 70)), (0, 20)),
    Posture(0.07, Limb((-10, 70), (0, 30), (-40, 40), (10, 110)),
            Limb((70, 105), (0, 30), (-20, 20), (60, 115)), (-10, 25)),
    Posture(0.015, _ANY_ARM, Limb((60, 115), (0, 35), (-20, 20), (90, 140)), (10, 50)),
    Posture(0.015, _ANY_ARM, Limb((-25, 100), (-5, 45), (-30, 30), (0, 130)), (-10, 50), (-40, 40)),
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """A posed body.

    Attributes:
        joints: Name to position (3,), for every keypoint of COCO but those of
            the face, and ``neck``, ``head``, ``hand`` and ``toe`` of each side.
        chest: Orientation (3, 3) of the trunk's upper end: its columns point to
            the body's left, down and back.
        head: Orientation of the head, in the same way.
    """

    joints: dict[str, np.ndarray]
    chest: np.ndarray
    head: np.ndarray


class LimbPose(NamedTuple):
    """Angles of one arm or leg, in degrees; see :class:`Limb`. ``end`` bends the hand or toes."""

    flexion: float
    abduction: float
    twist: float
    bend: float
    end: float


class Pose(NamedTuple):
    """Angles of a body, in degrees.

    Attributes:
        yaw: Angle of the complete body about the vertical, 0 if it faces the camera.
        seen_from: Angle by which the camera looks down.
        tilt: Angle of the complete body, to a side.
        lean, bow, twist: Angles of the trunk: forward, to a side, about the spine.
        nod, head_turn, head_tilt: Angles of the head on the trunk.
        arms, legs: Left and right.
    """

    yaw: float
    seen_from: float
    tilt: float
    lean: float
    bow: float
    twist: float
    nod: float
    head_turn: float
    head_tilt: float
    arms: tuple[LimbPose, LimbPose]
    legs: tuple[LimbPose, LimbPose]


def sample_body(rng: np.random.Generator) -> Body:
    """Sample a posture, its angles, and the direction that the body faces."""
    weights = np.array([posture.weight for posture in POSTURES])
    posture = POSTURES[rng.choice(len(POSTURES), p=weights / weights.sum())]
    return pose_body(sample_pose(rng, posture))


def sample_pose(rng: np.random.Generator, posture: Posture) -> Pose:
    """Sample the angles of a posture, and the direction that the body faces."""
    # Nearly all persons face the camera, more than in photos, so that small networks need not
    # learn to recognise a back by its clothes.
    yaw = rng.normal(0, 20) if rng.random() < 0.97 else rng.uniform(-180, 180)
    seen_from = rng.uniform(-5, 25)
    tilt, lean = rng.uniform(*posture.tilt), rng.uniform(*posture.lean)
    bow, twist = rng.uniform(-10, 10), rng.uniform(-12, 12)
    nod = rng.uniform(-15, 20) - 0.6 * lean
    head_turn, head_tilt = rng.normal(0, 12), rng.uniform(-12, 12)
    limbs = [
        (_sample_limb(rng, posture.arms, (-40, 40)), _sample_limb(rng, posture.legs, (-5, 30)))
        for _ in SIDES
    ]
    arms, legs = zip(*limbs, strict=True)
    return Pose(
        yaw, seen_from, tilt, lean, bow, twist, nod, head_turn, head_tilt, arms=arms, legs=legs
    )


def _sample_limb(rng: np.random.Generator, limb: Limb, end: tuple[float, float]) -> LimbPose:
    abduction, flexion = rng.uniform(*limb.abduction), rng.uniform(*limb.flexion)
    twist, bend = rng.uniform(*limb.twist), rng.uniform(*limb.bend)
    return LimbPose(flexion, abduction, twist, bend, rng.uniform(*end))


def pose_body(pose: Pose) -> Body:
    """Positions of the joints, from the angles."""
    hips = turn(x=pose.seen_from) @ turn(z=pose.tilt) @ turn(y=pose.yaw)
    chest = hips @ turn(x=pose.lean) @ turn(z=pose.bow) @ turn(y=pose.twist)
    head = chest @ turn(y=pose.head_turn) @ turn(x=pose.nod) @ turn(z=pose.head_tilt)
    joints = {'neck': chest @ (-SPINE * DOWN)}
    joints['head'] = joints['neck'] + head @ (-(NECK + HEAD) * DOWN)
    for (side, sign), arm, leg in zip(SIDES, pose.arms, pose.legs, strict=True):
        _pose_arm(joints, chest, arm, side, sign)
        _pose_leg(joints, hips, leg, side, sign)
    return Body(joints, chest, head)


def _pose_arm(
    joints: dict[str, np.ndarray], chest: np.ndarray, arm: LimbPose, side: str, sign: int
) -> None:
    shoulder = joints['neck'] + chest @ np.array([sign * SHOULDER, 0.02, 0])
    upper, lower = _limb_frames(chest, arm, sign, -1)
    elbow = shoulder + upper @ DOWN * UPPER_ARM
    wrist = elbow + lower @ DOWN * FOREARM
    joints |= {f'{side}_shoulder': shoulder, f'{side}_elbow': elbow, f'{side}_wrist': wrist}
    joints[f'{side}_hand'] = wrist + lower @ turn(x=arm.end) @ DOWN * HAND


def _pose_leg(
    joints: dict[str, np.ndarray], hips: np.ndarray, leg: LimbPose, side: str, sign: int
) -> None:
    hip = hips @ np.array([sign * HIP, 0, 0])
    upper, lower = _limb_frames(hips, leg, sign, 1)
    knee = hip + upper @ DOWN * THIGH
    ankle = knee + lower @ DOWN * SHIN
    joints |= {f'{side}_hip': hip, f'{side}_knee': knee, f'{side}_ankle': ankle}
    toe = turn(x=leg.end) @ (FORWARD * FOOT + DOWN * 0.03)
    joints[f'{side}_toe'] = ankle + lower @ toe


def _limb_frames(
    trunk: np.ndarray, limb: LimbPose, sign: int, bends: int
) -> tuple[np.ndarray, np.ndarray]:
    """Orientations of the upper and the lower bone; an elbow bends forward, a knee backward."""
    upper = (
        trunk @ turn(z=-sign * limb.abduction) @ turn(x=-limb.flexion) @ turn(y=sign * limb.twist)
    )
    return upper, upper @ turn(x=bends * limb.bend)


def turn(x: float = 0, y: float = 0, z: float = 0) -> np.ndarray:
    """Rotation matrix (3, 3) about one axis, by an angle in degrees."""
    axis, angle = next(((i, a) for i, a in enumerate((x, y, z)) if a), (0, 0.0))
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = np.cos(radians(angle)), np.sin(radians(angle))
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = cos, cos, -sin, sin
    return matrix
