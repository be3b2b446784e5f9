"""Folded layers: equal outputs, up to the last bits of double precision."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Swish
from mmdet.models.backbones.resnet import BasicBlock as DetBasicBlock
from mmdet.models.dense_heads.rtmdet_head import RTMDetSepBNHead
from mmdet.models.task_modules import MlvlPointGenerator
from mmengine.registry import DefaultScope
from mmpose.models.backbones.hrnet import HRNet
from mmpose.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmpose.models.utils import RepVGGBlock, SinePositionalEncoding
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpose_batch.speedups.fusion import CACHED_SIZES, fuse_layers

# Folding changes the order of multiplications: a few units in the last place of each layer.
TOLERANCE = 1e-12
CHANNELS = 4


def ready(module: nn.Module) -> nn.Module:
    """The module in double precision and eval mode, with batch norms that change values."""
    generator = torch.Generator().manual_seed(0)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            norm.running_mean.copy_(uniform(norm.running_mean, -1, 1))
            norm.running_var.copy_(uniform(norm.running_var, 0.2, 3))
        if isinstance(norm, _BatchNorm) and norm.affine:
            norm.weight.data.copy_(uniform(norm.weight, 0.3, 2))
            norm.bias.data.copy_(uniform(norm.bias, -1, 1))
    module.double().eval()  # mmpose's backbones return None here
    return module


def flat(outputs: object) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for item in outputs for tensor in flat(item)]


@torch.no_grad()
def assert_same(before: nn.Module, after: nn.Module, inputs: object) -> None:
    expected, found = flat(before(inputs)), flat(after(inputs))
    assert len(expected) == len(found) > 0
    for one, other in zip(expected, found, strict=True):
        assert one.abs().max() > 1e-3  # a comparison of zeros could not fail
        torch.testing.assert_close(other, one, rtol=TOLERANCE, atol=TOLERANCE)


def fused(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    fuse_layers(module)
    return module


def norms_in(module: nn.Module) -> int:
    return sum(isinstance(child, _BatchNorm) for child in module.modules())


def picture(channels: int = CHANNELS, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, size, size, generator=generator, dtype=torch.float64)


def conv_module(**options: object) -> ConvModule:
    options = {'kernel_size': 3, 'padding': 1, 'norm_cfg': {'type': 'BN'}, **options}
    return ConvModule(CHANNELS, 2 * CHANNELS, **options)


FOLDED: dict[str, Callable[[], nn.Module]] = {
    'conv, norm, activation': conv_module,
    'with a bias': lambda: conv_module(bias=True),
    'in groups': lambda: conv_module(groups=2),
    'strided and dilated': lambda: conv_module(stride=2, dilation=2),
    'padded by reflection': lambda: conv_module(padding_mode='reflect'),
    'with a padding layer': lambda: conv_module(conv_cfg={'type': 'Conv2dAdaptivePadding'}),
    'activation first': lambda: conv_module(order=('act', 'conv', 'norm')),
    'without activation': lambda: conv_module(act_cfg=None),
    'synchronised norm': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.SyncBatchNorm(5), nn.ReLU()
    ),
    'norm without scale': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.BatchNorm2d(5, affine=False)
    ),
    'sequence': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)
    ),
    'sequence in a sequence': lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(CHANNELS, 5, 3), nn.BatchNorm2d(5)), nn.ReLU()
    ),
    'two convs, one norm': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6)
    ),
    'deconvolution': lambda: nn.Sequential(
        nn.ConvTranspose2d(CHANNELS, 6, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
    ),
    'deconvolution with a bias': lambda: nn.Sequential(
        nn.ConvTranspose2d(CHANNELS, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6)
    ),
    'basic block': lambda: BasicBlock(CHANNELS, CHANNELS),
    'basic block of a detector': lambda: DetBasicBlock(CHANNELS, CHANNELS),
    'bottleneck': lambda: Bottleneck(CHANNELS, CHANNELS, expansion=1),
    'RepVGG block': lambda: RepVGGBlock(CHANNELS, CHANNELS),
    'RepVGG block without identity': lambda: RepVGGBlock(CHANNELS, 6),
}


@pytest.mark.parametrize('build', FOLDED.values(), ids=FOLDED)
def test_a_norm_after_a_convolution_is_folded_exactly(build):
    torch.manual_seed(0)
    module = ready(build())
    assert norms_in(module) > 0
    after = fused(module)
    assert norms_in(after) == 0
    assert_same(module, after, picture())


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm2d(CHANNELS)
    return nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3), norm, nn.Conv2d(CHANNELS, CHANNELS, 3), norm
    )


def shared_convolution() -> nn.Module:
    """One convolution with a norm for each level and once without, as in RTMDet's heads."""

    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.ModuleList(conv_module() for _ in range(3))
            for level in self.levels:
                level.conv = self.levels[0].conv
            self.alone = self.levels[0].conv

        def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
            return [*(level(inputs) for level in self.levels), self.alone(inputs)]

    return Levels()


@pytest.mark.parametrize('build', [shared_convolution, shared_norm])
def test_shared_layers_stay_correct_for_all_users(build):
    torch.manual_seed(0)
    module = ready(build())
    assert_same(module, fused(module), picture())


# Layers that look like a pair.
LEFT: dict[str, Callable[[], nn.Module]] = {
    'norm first': lambda: conv_module(order=('norm', 'conv', 'act')),
    'activation between': lambda: conv_module(order=('conv', 'act', 'norm')),
    'norm before convolution': lambda: nn.Sequential(
        nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 5, 3)
    ),
    'norm after activation': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)
    ),
    'norm without statistics': lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, 5, 3), nn.BatchNorm2d(5, track_running_stats=False)
    ),
    'norm of the instance': lambda: conv_module(norm_cfg={'type': 'IN'}),
    'norm of groups': lambda: conv_module(norm_cfg={'type': 'GN', 'num_groups': 2}),
    'deconvolution in groups': lambda: nn.Sequential(
        nn.ConvTranspose2d(CHANNELS, 6, 3, groups=2), nn.BatchNorm2d(6)
    ),
    'spectral norm': lambda: conv_module(with_spectral_norm=True),
    # These convolutions change the weights in forward before using them.
    'standardised weights': lambda: conv_module(conv_cfg={'type': 'ConvWS'}),
    'adaptively standardised weights': lambda: conv_module(conv_cfg={'type': 'ConvAWS'}),
}


@pytest.mark.parametrize('build', LEFT.values(), ids=LEFT)
def test_layers_that_only_look_like_a_pair_are_not_folded(build):
    torch.manual_seed(0)
    module = ready(build())
    assert_same(module, fused(module), picture())


def test_a_module_of_unknown_order_is_not_folded():
    class Swapped(nn.Module):
        """Calls its layers in another order than it registers them."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3)
            self.bn1 = nn.BatchNorm2d(CHANNELS)
            self.norm1_name = 'bn1'

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.conv1(self.bn1(inputs))

    module = ready(Swapped())
    assert_same(module, fused(module), picture())


def test_a_norm_in_training_mode_is_not_folded():
    module = ready(conv_module())
    module.bn.train()
    after = fused(module)
    assert norms_in(after) == 1


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'ResNet-18': lambda: ResNet(18, base_channels=8, out_indices=(1, 3)),
    'ResNet-50 with a deep stem': lambda: ResNet(50, base_channels=8, deep_stem=True),
    'HRNet': lambda: HRNet(
        {
            f'stage{stage}': {
                'num_modules': 1,
                'num_branches': max(1, stage),
                'block': 'BOTTLENECK' if stage == 1 else 'BASIC',
                'num_blocks': (1,) * max(1, stage),
                'num_channels': tuple(8 * 2**level for level in range(max(1, stage))),
            }
            for stage in (1, 2, 3, 4)
        }
    ),
}


@pytest.mark.parametrize('build', NETWORKS.values(), ids=NETWORKS)
def test_a_network_has_no_norm_left_and_computes_the_same(build):
    torch.manual_seed(0)
    network = ready(build())
    after = fused(network)
    assert norms_in(after) == 0
    assert_same(network, after, picture(channels=3, size=64))


@pytest.mark.parametrize('share_conv', [True, False])
def test_rtmdets_heads_share_convolutions_between_levels(share_conv):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):  # independent of earlier tests
        head = RTMDetSepBNHead(
            num_classes=1,
            in_channels=8,
            feat_channels=8,
            stacked_convs=2,
            share_conv=share_conv,
            anchor_generator={'type': 'MlvlPointGenerator', 'offset': 0, 'strides': [8, 16]},
            bbox_coder={'type': 'DistancePointBBoxCoder'},
            norm_cfg={'type': 'BN'},
        )
    head = ready(head)
    after = fused(head)
    assert norms_in(after) == 0
    assert_same(head, after, [picture(8, 12), picture(8, 6)])


def test_the_original_class_is_not_changed():
    before = {cls: cls.forward for cls in (ConvModule, BasicBlock, RepVGGBlock, nn.Sequential)}
    fused(ready(nn.Sequential(conv_module(), RepVGGBlock(2 * CHANNELS, 4))))
    assert {cls: cls.forward for cls in before} == before


def test_swish_is_computed_by_one_operation():
    module = ready(nn.Sequential(conv_module(act_cfg={'type': 'Swish'}), Swish()))
    after = fused(module)
    assert not any(isinstance(child, Swish) for child in after.modules())
    assert_same(module, after, picture())


# ------------------------------------------------------------- position codes and priors


class Counted(SinePositionalEncoding):
    """Counts how often codes are computed."""

    computed = 0

    def generate_pos_encoding(self, size: object = None, position: object = None) -> torch.Tensor:
        self.computed += not hasattr(self, f'pos_enc_{size}')
        return super().generate_pos_encoding(size, position)


@pytest.mark.parametrize(
    ('spatial_dim', 'sizes'), [(2, [(3, 4), (5, 2)]), (1, [7, 3])], ids=['grid', 'sequence']
)
@pytest.mark.parametrize('by_name', [True, False])
def test_position_codes_are_computed_once_for_each_size(spatial_dim, sizes, by_name):
    plain = SinePositionalEncoding(8, spatial_dim)
    module = Counted(8, spatial_dim).eval()
    fuse_layers(module)
    for size in sizes * 3:
        codes = module(size=size) if by_name else module(size)
        assert torch.equal(codes, plain(size))
    assert module.computed == len(sizes)
    assert list(module.state_dict()) == list(plain.state_dict())


def test_codes_for_given_positions_are_not_cached():
    module = Counted(8, 2).eval()
    fuse_layers(module)
    for seed in range(3):
        positions = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(seed))
        expected = SinePositionalEncoding(8, 2)(position=positions)
        assert torch.equal(module(position=positions), expected)
    assert module.computed == 3


def test_the_cache_of_codes_is_limited():
    module = Counted(8, 2).eval()
    fuse_layers(module)
    for width in range(1, 3 * CACHED_SIZES):
        assert torch.equal(module((2, width)), SinePositionalEncoding(8, 2)((2, width)))
    assert len(dict(module.named_buffers())) <= CACHED_SIZES + 1


@pytest.mark.slow
def test_a_compiled_function_uses_codes_but_does_not_cache_them():
    module, graphs = SinePositionalEncoding(8, 2).eval(), []
    fuse_layers(module)

    def compile_graph(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph

    compiled = torch.compile(module, backend=compile_graph, dynamic=False)
    for _ in range(3):
        assert torch.equal(compiled((2, 3)), SinePositionalEncoding(8, 2)((2, 3)))
    assert len(graphs) == 1
    assert 'pos_enc_(2, 3)' not in dict(module.named_buffers())
    codes = module((4, 5))
    assert compiled((4, 5)) is codes


class Head(nn.Module):
    """A head with a prior generator only."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_generator = MlvlPointGenerator([8, 16], offset=0)


def test_priors_are_computed_once_for_each_size():
    head, plain = Head().eval(), MlvlPointGenerator([8, 16], offset=0)
    fuse_layers(head)
    first: dict[tuple, list[torch.Tensor]] = {}
    for sizes in [((4, 6), (2, 3)), ((5, 5), (3, 3))] * 2:
        for with_stride in (False, True):
            priors = head.prior_generator.grid_priors(
                [torch.Size(size) for size in sizes], device='cpu', with_stride=with_stride
            )
            expected = plain.grid_priors(list(sizes), device='cpu', with_stride=with_stride)
            assert all(map(torch.equal, priors, expected))
            cached = first.setdefault((sizes, with_stride), list(priors))
            assert all(one is other for one, other in zip(priors, cached, strict=True))
            priors.clear()  # each caller gets a new list


def test_the_cache_of_priors_is_limited():
    head, plain = Head().eval(), MlvlPointGenerator([8, 16], offset=0)
    fuse_layers(head)
    found = []
    for _ in range(2):
        for width in range(1, 3 * CACHED_SIZES):
            sizes = [(2, width), (1, width)]
            priors = head.prior_generator.grid_priors(sizes, device='cpu')
            assert all(map(torch.equal, priors, plain.grid_priors(sizes, device='cpu')))
            found.extend(priors)
    assert (
        len({id(prior) for prior in found}) > 2 * 2 * CACHED_SIZES
    )  # sizes beyond the limit are computed
