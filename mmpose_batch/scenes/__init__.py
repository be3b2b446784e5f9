"""Synthetic scenes of people with annotations, for training, tests and benchmarks."""

from .dataset import write_scenes
from .scene import Person, Scene, SceneOptions, draw_scene

__all__ = ['Person', 'Scene', 'SceneOptions', 'draw_scene', 'write_scenes']
