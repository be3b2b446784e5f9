"""Arguments of the constructor, completed by a config's ``inferencer=dict(...)``."""

from dataclasses import asdict, dataclass
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from .config import BATCH_SETTINGS, BatchOptions, merge_settings
from .models.checkpoint import check_weights
from .models.checks.configs import check_device, check_flip_test, check_pose_config
from .models.checks.pipelines import check_pipeline
from .models.names import load_config
from .stages.detect import check_detector, choose_detector


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What an inferencer is built from, checked before any of its parts is built.

    Attributes:
        cfg: Config of the pose model.
        device: Device of the networks.
        options: The batch options as given.
        settings: Upstream's other arguments; the detector of a top-down model is chosen.
    """

    cfg: Config | ConfigDict | dict
    device: str
    options: BatchOptions
    settings: dict[str, Any]

    @property
    def plain(self) -> dict[str, Any]:
        """All arguments but the config and the device, as given."""
        return {**asdict(self.options), **self.settings}


def resolve(model: str | dict | Config | ConfigDict, given: dict[str, Any]) -> Arguments:
    """Complete arguments by the config, and check that all parts can be built.

    Args:
        model: The constructor's first argument.
        given: Its other arguments; None counts as left out.

    Raises:
        ValueError: See :class:`mmpose_batch.inferencer.BatchPose2DInferencer`.
        CheckpointError: Weights are missing or of another kind.
    """
    # Upstream's defaults: whether they were given cannot be seen.
    defaults = {'scope': 'mmpose', 'show_progress': False}
    given = {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}
    if isinstance(model, str):
        model, own_weights = load_config(model, given.get('scope') or 'mmpose')
        given['weights'] = given['weights'] or own_weights
    check_pose_config(model)
    settings = merge_settings(model.get('inferencer') or {}, given)
    options = BatchOptions(**{key: settings.pop(key) for key in BATCH_SETTINGS if key in settings})
    device = settings.pop('device', None) or get_device()
    check_device(device)
    check_pipeline(model)
    check_flip_test(model, options.flip_test)
    check_weights(settings.get('weights'))
    if model['data_mode'] == 'topdown':
        settings.update(_detector_settings(model, settings, device))
        if options.det_interval > 1 and settings['det_model'] == 'whole_image':
            raise ValueError('det_interval: only valid with a detector')
    elif options.det_interval > 1:
        raise ValueError('det_interval: only valid for top-down models')
    return Arguments(cfg=model, device=device, options=options, settings=settings)


def _detector_settings(
    cfg: Config | ConfigDict | dict, settings: dict[str, Any], device: str
) -> dict[str, Any]:
    """Upstream's arguments for the detector of a top-down model."""
    names = 'det_model', 'det_weights', 'det_cat_ids'
    choice = choose_detector(cfg, *map(settings.get, names))
    if choice is None:
        return {'det_model': 'whole_image'}
    check_detector(choice, device)
    return dict(zip(names, (choice.config, choice.weights, choice.cat_ids), strict=True))
