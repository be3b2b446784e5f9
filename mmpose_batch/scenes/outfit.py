"""The clothes of a figure: colours, patterns and cuts."""

from dataclasses import dataclass

import numpy as np

SKINS = ((224, 188, 160), (241, 207, 181), (198, 152, 118), (150, 104, 76), (104, 70, 50))
HAIRS = ((35, 25, 20), (70, 45, 30), (120, 80, 45), (190, 150, 90), (150, 150, 150), (120, 50, 25))


@dataclass(frozen=True)
class Material:
    """A colour (RGB, 0 to 255) and a pattern over it."""

    color: np.ndarray
    pattern: str = 'plain'
    second: np.ndarray | None = None
    period: float = 0.2

    def at(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Colours (..., 3) at places along (0 to 1) and across (-1 to 1) a part."""
        if self.pattern == 'plain':
            return np.broadcast_to(self.color, (*along.shape, 3))
        if self.pattern == 'stripes':
            second = along % self.period < self.period / 2
        elif self.pattern == 'band':
            second = np.abs(across) < 0.45
        elif self.pattern == 'checks':
            second = (along % self.period < self.period / 2) ^ (across % 0.6 < 0.3)
        else:  # dots
            second = (along % self.period / self.period - 0.5) ** 2 + (
                across % 0.6 - 0.3
            ) ** 2 < 0.03
        return np.where(second[..., None], self.second, self.color)


# Everyone wears sports gear that marks the joints: pads at elbows and knees, sweatbands at wrists,
# socks, and a belt.
_DARK, _BRIGHT = np.float32([35, 33, 38]), np.float32([243, 241, 236])
KNEE_PAD = Material(_DARK, 'band', _BRIGHT)
ELBOW_PAD = Material(_BRIGHT, 'band', np.float32([205, 25, 45]))
SWEATBAND = Material(_DARK, 'band', np.float32([250, 205, 25]))
SOCK = Material(_BRIGHT)
BELT = Material(_DARK)


@dataclass(frozen=True)
class Outfit:
    """Clothes and build of a figure; lengths are in heights of the body."""

    skin: Material
    hair: Material
    shirt: Material
    sleeve: Material
    trousers: Material
    shoes: Material
    sleeves: float
    legs: float
    skirt: bool
    long_hair: bool
    girth: float


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """Sample clothes, skin and hair."""
    skin = np.float32(SKINS[rng.integers(len(SKINS))]) * np.float32(rng.uniform(0.9, 1.08))
    hair = np.float32(HAIRS[rng.integers(len(HAIRS))]) * np.float32(rng.uniform(0.8, 1.2))
    shirt = _cloth(rng, 0.65)
    return Outfit(
        skin=Material(skin),
        hair=Material(hair, 'stripes', hair * np.float32(0.8), 0.13),
        shirt=shirt,
        sleeve=Material(_shade(shirt.color)),
        trousers=_cloth(rng, 0.85),
        shoes=Material(rng.uniform(15, 230, 3).astype(np.float32)),
        sleeves=rng.choice([0.5, 1.0, 1.0]) + 0.5 * (rng.random() < 0.6),
        legs=rng.choice([0.55, 2.0, 2.0]),
        skirt=rng.random() < 0.15,
        long_hair=rng.random() < 0.35,
        girth=rng.uniform(1.05, 1.4),
    )


def _cloth(rng: np.random.Generator, plain: float) -> Material:
    color, second = rng.uniform(20, 240, (2, 3)).astype(np.float32)
    if rng.random() < 0.4:
        color = color.mean() + np.float32(0.2) * (
            color - color.mean()
        )  # greyish, like most clothes
    pattern = 'plain' if rng.random() < plain else rng.choice(['stripes', 'checks', 'dots'])
    return Material(color, pattern, second, rng.uniform(0.12, 0.3))


def _shade(color: np.ndarray) -> np.ndarray:
    """A darker or lighter shade that stands out from a colour."""
    return color * np.float32(0.5) if color.mean() > 110 else 140 + color * np.float32(0.45)
