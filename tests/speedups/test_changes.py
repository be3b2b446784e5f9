"""In-place changes: equal outputs if a change applies, and no effect on other objects."""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Swish
from mmcv.transforms import LoadImageFromFile
from mmdet.models.task_modules import MlvlPointGenerator
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmpose.datasets.transforms import BottomupResize, LoadImage
from mmpose.models import PoseDataPreprocessor
from mmpose.models.utils import RepVGGBlock, SinePositionalEncoding
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from support.tiny import one_stage_config, picture, save, top_down_config
from torch import nn
from torch.utils._pytree import tree_leaves

import mmpose_batch
import mmpose_batch.engines
import mmpose_batch.speedups
from mmpose_batch.speedups.base import CHANGES, InPlaceChange, apply_changes, register

for package in (mmpose_batch.speedups, mmpose_batch.engines):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'{package.__name__}.{module.name}')


@dataclass(frozen=True)
class Case:
    """An object to which a change applies, and one to which it does not apply.

    Attributes:
        build: Builds the object.
        run: Returns its outputs: tensors, arrays, and nested structures of them.
        other: Builds a similar object to which the change does not apply.
        rtol: Maximum difference as a fraction of an output's largest value; 0 for identical bits.
        why: Reason for a tolerance above 0.
    """

    build: Callable[[], Any]
    run: Callable[[Any], Any]
    other: Callable[[], Any]
    rtol: float = 0
    why: str = ''


ROUNDING = 'other order of additions and multiplications: below 1e-15 measured in double precision'


def built(part: nn.Module) -> nn.Module:
    """The module in double precision and eval mode, with batch norms that change values."""
    for norm in part.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.2, 3)
    return part.double().eval()


def head_of(cfg: Any, **options: Any) -> nn.Module:
    cfg.model.head.update(options)
    with DefaultScope.overwrite_default_scope('mmpose'):
        return MODELS.build(cfg.model.head).eval()


def rtmpose_head(**options: Any) -> nn.Module:
    cfg = top_down_config()
    cfg.model.head.decoder.update(options)
    return head_of(cfg)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def decode(head: nn.Module) -> list[InstanceData]:
    return head.decode((images(3, 17, 128), images(3, 17, 192)))


def predict(head: nn.Module) -> list[InstanceData]:
    feats = [images(2, 32, 96 // stride, 64 // stride) for stride in (16, 32)]
    samples = [PoseDataSample(metainfo={'input_size': (64, 96)}) for _ in range(2)]
    return head.predict(feats, samples, {'score_thr': 0.3, 'nms_thr': 0.65})


def deployed(block: RepVGGBlock) -> RepVGGBlock:
    block.switch_to_deploy()
    return block


def forward(module: nn.Module) -> torch.Tensor:
    return module(images(2, 4, 6, 6).double())


class Priors(nn.Module):
    """A head with priors."""

    def __init__(self, generator: object) -> None:
        super().__init__()
        self.prior_generator = generator

    def forward(self, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        return self.prior_generator.grid_priors(sizes, device='cpu')


def rtmpose(preprocessor: type = PoseDataPreprocessor) -> nn.Module:
    """A tiny RTMPose with random weights."""
    with DefaultScope.overwrite_default_scope('mmpose'):
        model = MODELS.build(top_down_config().model).eval()
    model.data_preprocessor.__class__ = preprocessor
    return model


class OwnPreprocessor(PoseDataPreprocessor):
    """A third-party data preprocessor."""


def network(model: nn.Module) -> Any:
    """Outputs of the network, for normalised inputs."""
    return model.head.forward(model.extract_feat(images(2, 3, 96, 64)))


def network_in_autocast(model: nn.Module) -> list[torch.Tensor]:
    """Outputs of the network in bf16, of the second batch."""
    with torch.autocast('cpu', dtype=torch.bfloat16):
        network(model)
        return [output.float() for output in network(model)]


def preprocess(model: nn.Module) -> torch.Tensor:
    pixels = (images(3, 3, 96, 64) * 40 + 128).clamp(0, 255).byte()
    data = {'inputs': list(pixels), 'data_samples': [PoseDataSample() for _ in pixels]}
    return model.data_preprocessor(data, False)['inputs']


def predict_pixels(model: nn.Module) -> list[InstanceData]:
    """Keypoints for uint8 pixels, since an engine may include normalisation."""
    return model.head.predict(model.extract_feat(preprocess(model)), [])


def resize(pipeline: Compose) -> Any:
    results = pipeline({'img': picture(70, 70), 'ori_shape': (70, 70)})
    return [results[name] for name in ('img', 'img_shape', 'input_size')]


def load(pipeline: Compose) -> np.ndarray:
    with TemporaryDirectory() as folder:
        path = save(Path(folder) / 'photo.png', picture(12, 10))
        return pipeline({'img_path': path})['img']


def pipeline(*steps: object) -> Compose:
    composed = Compose([])
    composed.transforms = list(steps)
    return composed


def network_in(rtol: float, why: str) -> Case:
    return Case(rtmpose, network, lambda: nn.Sequential(nn.ReLU()), rtol, why)


CASES: dict[str, Case] = {
    'SimCC decodes all persons': Case(rtmpose_head, decode, lambda: rtmpose_head(use_dark=True)),
    'outputs are copied before decoding': Case(
        lambda: rtmpose_head(use_dark=True), decode, lambda: head_of(one_stage_config())
    ),
    'one-stage heads decode a batch': Case(
        lambda: head_of(one_stage_config()), predict, rtmpose_head
    ),
    'fold RepVGG branches': Case(
        lambda: built(RepVGGBlock(4, 4)),
        forward,
        lambda: deployed(built(RepVGGBlock(4, 4))),
        1e-12,
        ROUNDING,
    ),
    'fold batch norms': Case(
        lambda: built(ConvModule(4, 4, 3, norm_cfg={'type': 'BN'})),
        forward,
        lambda: built(ConvModule(4, 4, 3, norm_cfg={'type': 'GN', 'num_groups': 2})),
        1e-12,
        ROUNDING,
    ),
    'Swish in one pass': Case(
        lambda: built(nn.Sequential(Swish())),
        forward,
        lambda: built(nn.Sequential(nn.Hardswish())),
        1e-12,
        ROUNDING,
    ),
    'cache position codes': Case(
        lambda: SinePositionalEncoding(8, 2).eval(),
        lambda module: [module((3, 4)), module((3, 4)), module((2, 2))],
        lambda: SinePositionalEncoding(8, 2, learnable=True).eval(),
    ),
    'cache priors': Case(
        lambda: Priors(MlvlPointGenerator([8, 16])),
        lambda head: [head([(4, 6), (2, 3)]), head([(4, 6), (2, 3)]), head([(1, 1), (1, 1)])],
        lambda: Priors(None),
    ),
    'cast weights once': Case(rtmpose, network_in_autocast, lambda: nn.Sequential(nn.ReLU())),
    'stack, then normalise': Case(rtmpose, preprocess, lambda: rtmpose(OwnPreprocessor)),
    'loader takes arrays': Case(
        lambda: pipeline(LoadImageFromFile(color_type='grayscale')),
        load,
        lambda: pipeline(LoadImage()),
    ),
    # For other images it reduces padding on purpose, see test_rect.py.
    'pad to the next stride': Case(
        lambda: pipeline(BottomupResize((96, 96))),
        resize,
        lambda: pipeline(BottomupResize((96, 96), resize_mode='expand')),
    ),
    'network swap': Case(rtmpose, predict_pixels, lambda: rtmpose(OwnPreprocessor)),
    'compute in fp32': network_in(2e-6, 'channels_last adds in another order: 3e-7 measured'),
    'compute in fp16': network_in(0.005, '11 bits of mantissa in every layer: 1.7e-3 measured'),
    'compute in bf16': network_in(0.05, '8 bits of mantissa in every layer: 1.5e-2 measured'),
    'NaN fails': Case(rtmpose, network, nn.Identity),
    'outputs on the CPU': Case(
        rtmpose_head,
        lambda head: head((images(1, 128, 3, 2),)),
        lambda: with_outputs_on_cpu(rtmpose_head()),
    ),
}


def with_outputs_on_cpu(head: nn.Module) -> nn.Module:
    CHANGES['outputs on the CPU'].apply(head)
    return head


def values(outputs: Any) -> list[np.ndarray]:
    """All numbers in nested outputs."""
    if isinstance(outputs, InstanceData):
        outputs = {name: outputs[name] for name in sorted(outputs.keys())}
    elif isinstance(outputs, list) and outputs and isinstance(outputs[0], InstanceData):
        return [value for each in outputs for value in values(each)]
    return [np.asarray(leaf) for leaf in tree_leaves(outputs)]


def attributes(target: object) -> dict[str, Any]:
    """The identity of every part and attribute of a model or pipeline."""
    parts = {'': target}
    if isinstance(target, nn.Module):
        parts = dict(target.named_modules())
        parts |= {
            f'{name}.prior_generator': part.prior_generator
            for name, part in list(parts.items())
            if hasattr(part, 'prior_generator')
        }
    found = {}
    for name, part in parts.items():
        found[name] = part, dict(getattr(part, '__dict__', {}))
        for field, value in found[name][1].items():
            if isinstance(value, dict | list):  # such as hooks, submodules and transforms
                found[f'{name}.{field}'] = dict(value) if isinstance(value, dict) else list(value)
    return found


def assert_untouched(target: object, before: dict[str, Any]) -> None:
    after = attributes(target)
    assert after.keys() == before.keys()
    for name, (old, new) in ((name, (before[name], after[name])) for name in after):
        flat_old, flat_new = tree_leaves(old), tree_leaves(new)
        assert list(map(id, flat_old)) == list(map(id, flat_new)), name


OF_PIPELINES = ('loader takes arrays', 'pad to the next stride')


def test_every_change_has_a_case():
    assert CASES.keys() == CHANGES.keys()


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_outputs_are_equal_where_a_change_applies(name):
    case, change = CASES[name], CHANGES[name]
    assert bool(case.rtol) == bool(case.why)
    torch.manual_seed(0)
    upstream = case.build()
    torch.manual_seed(0)
    target = case.build()
    expected, before = values(case.run(upstream)), attributes(target)
    assert apply_changes(target, [change]) == [name]
    with pytest.raises(AssertionError):
        assert_untouched(target, before)
    found = values(case.run(target))
    assert len(found) == len(expected) > 0
    assert max(value.size for value in found) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if case.rtol:
            assert np.abs(one - other).max() <= case.rtol * np.abs(other).max()
        else:
            np.testing.assert_array_equal(one, other)
    assert not change.applies(target)  # a second time


@pytest.mark.parametrize('name', CASES)
def test_other_objects_are_not_changed(name):
    other = CASES[name].other()
    before = attributes(other)
    assert apply_changes(other, [CHANGES[name]]) == []
    assert_untouched(other, before)


@pytest.mark.parametrize('name', CASES)
def test_an_object_without_the_changed_parts_is_not_changed(name):
    empty = Compose([]) if name in OF_PIPELINES else nn.Identity()
    before = attributes(empty)
    if name != 'outputs on the CPU':  # an attribute of any module
        assert apply_changes(empty, [CHANGES[name]]) == []
    assert_untouched(empty, before)


def test_a_name_is_registered_once():
    name = next(iter(CHANGES))
    with pytest.raises(ValueError, match='is registered already'):
        register(InPlaceChange(name=name, applies=bool, apply=print))


# ------------------------------------------------------------------------------ one place

PLACES = ('speedups', 'nan_check.py', 'engines/network.py', 'engines/wrapping.py')
# These set attributes by name of an image in flight, of PyTorch's settings, and of the module sys.
OTHERS = {'batching.py', 'tf32.py', 'cli/streams.py'}
METHODS = {'forward', 'predict', 'decode', 'extract_feat', 'test_step', 'grid_priors'}
PARTS = {'data_preprocessor', 'backbone', 'neck', 'head', 'bbox_head', 'decoder', '__class__'}


def is_change(node: ast.AST) -> bool:
    """Whether code assigns or calls a method or part of a model or a step of a pipeline."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        to_format = name == 'to' and any(each.arg == 'memory_format' for each in node.keywords)
        return to_format or 'register_forward' in name or name in ('switch_to_deploy', 'setattr')
    return isinstance(node, ast.Assign) and any(map(is_part, node.targets))


def is_part(target: ast.AST) -> bool:
    if isinstance(target, ast.Subscript):
        return getattr(target.value, 'attr', '') == 'transforms'
    own = isinstance(getattr(target, 'value', None), ast.Name) and target.value.id == 'self'
    return isinstance(target, ast.Attribute) and target.attr in METHODS | PARTS and not own


def test_models_and_pipelines_are_changed_only_in_these_modules():
    root = Path(mmpose_batch.__file__).parent
    found: dict[str, list[int]] = {}
    for path in root.rglob('*.py'):
        name = path.relative_to(root).as_posix()
        nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if lines := [node.lineno for node in nodes if is_change(node)]:
            found[name] = lines
    elsewhere = {name: found[name] for name in found if not name.startswith(PLACES)}
    assert elsewhere.keys() == OTHERS, elsewhere
    assert len(found) > 5
