"""The state of a model in memory, from which copies are loaded instead of a checkpoint."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..speedups.fusion import fuse_layers


@dataclass(frozen=True, slots=True)
class ModelState:
    """The state of a model that is loaded into a copy, also in another process.

    Attributes:
        weights: The state dict, on the CPU, with folded batch norms and RepVGG branches.
        dataset_meta: Description of the model's keypoints or classes.
        load_notes: Lines that report which entries of its checkpoint are used.
        test_cfg: ``test_cfg`` of the model and of its head; None where there is none.
    """

    weights: dict[str, Tensor]
    dataset_meta: dict[str, Any]
    load_notes: list[str]
    test_cfg: tuple[Any, Any]

    @classmethod
    def of(cls, model: nn.Module) -> 'ModelState':
        """Return the state of a model whose layers are fused, as in an inferencer."""
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        test_cfg = tuple(getattr(part, 'test_cfg', None) for part in _parts(model))
        return cls(weights, model.dataset_meta, model.load_notes, test_cfg)

    def load_into(self, model: nn.Module) -> None:
        """Load this state into a model of the same config, and fuse the layers of the model.

        Raises:
            RuntimeError: The model was built from another config.
        """
        fuse_layers(model.eval())
        model.load_state_dict(self.weights)
        model.dataset_meta, model.load_notes = self.dataset_meta, self.load_notes
        for part, settings in zip(_parts(model), self.test_cfg, strict=True):
            if settings is not None:
                part.test_cfg = settings


def _parts(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    return model, getattr(model, 'head', None)
