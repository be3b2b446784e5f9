"""Synthetic scenes and videos of people with annotations, for training, tests and benchmarks."""

from .clip import ClipOptions, draw_clip
from .dataset import write_scenes
from .scene import Person, Scene, SceneOptions, draw_scene
from .video import write_videos

__all__ = [
    'ClipOptions',
    'Person',
    'Scene',
    'SceneOptions',
    'draw_clip',
    'draw_scene',
    'write_scenes',
    'write_videos',
]
