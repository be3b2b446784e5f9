"""The state of a model in memory, which takes the place of a checkpoint in a copy of it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..speedups.fusion import fuse_layers


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a copy of a model takes over, in another process too.

    Attributes:
        weights: The state dict, on the CPU. Batch norms and RepVGG branches are folded.
        dataset_meta: The dataset that its keypoints or classes are of.
        load_notes: Lines that report which entries of its checkpoint are used.
        test_cfg: Its test settings, and those of its head, where they have some.
    """

    weights: dict[str, Tensor]
    dataset_meta: dict[str, Any]
    load_notes: list[str]
    test_cfg: tuple[Any, Any]

    @classmethod
    def of(cls, model: nn.Module) -> 'ModelState':
        """The state of a model whose layers are fused, as those of inferencers are."""
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        test_cfg = tuple(getattr(part, 'test_cfg', None) for part in _parts(model))
        return cls(weights, model.dataset_meta, model.load_notes, test_cfg)

    def load_into(self, model: nn.Module) -> None:
        """Give a model of the same config this state; its layers are fused by that.

        Raises:
            RuntimeError: It is of another config.
        """
        fuse_layers(model.eval())
        model.load_state_dict(self.weights)
        model.dataset_meta, model.load_notes = self.dataset_meta, self.load_notes
        for part, settings in zip(_parts(model), self.test_cfg, strict=True):
            if settings is not None:
                part.test_cfg = settings


def _parts(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    return model, getattr(model, 'head', None)
