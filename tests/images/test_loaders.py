"""Loaders: for each setting of the config's loader, outputs equal those of upstream."""

import io
from typing import Any

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.datasets.transforms import LoadImage
from mmpose.registry import TRANSFORMS
from PIL import ExifTags, Image
from support.tiny import TinyModel, detector_config, picture, save

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures('one_thread')


@TRANSFORMS.register_module()
class LoadNegative(LoadImage):
    """A third-party loader that inverts the image."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results = super().transform(results)
        results['img'] = 255 - results['img']
        return results


@TRANSFORMS.register_module()
class RecordMissingImage(BaseTransform):
    """A first transform that does not load, and records whether there is an image."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results['was_loaded'] = 'img' in results
        return results


@TRANSFORMS.register_module()
class ToBGR(BaseTransform):
    """Converts the image of any loader to three channels of 8 bits, which networks require."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        img = results['img']
        if img.dtype == np.uint16:
            img = (img / 257).astype(np.uint8)
        results['img'] = mmcv.gray2bgr(img) if img.ndim == 2 else np.ascontiguousarray(img[..., :3])
        if results.get('was_loaded'):
            results['img'] = 255 - results['img']
        return results


def turned_jpeg(seed: int) -> bytes:
    """A JPEG with an EXIF orientation, whose pixels depend on the decoder."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture(120, 90, seed)).save(buffer, 'JPEG', exif=exif.tobytes())
    return buffer.getvalue()


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp('files')
    colour = picture(120, 90, 1)
    alpha = np.dstack((colour, picture(120, 90, 2)[..., 0]))
    paths = [save(folder / 'colour.png', colour), save(folder / 'alpha.png', alpha)]
    paths.append(save(folder / '16bit.png', colour.astype(np.uint16) * 257))
    (folder / 'turned.jpg').write_bytes(turned_jpeg(0))
    return [*paths, str(folder / 'turned.jpg')]


@pytest.fixture(scope='module', params=['one_stage', 'top_down'])
def pair(
    request: pytest.FixtureRequest, one_stage: TinyModel, top_down: TinyModel, one_thread: None
) -> tuple[Pose2DInferencer, BatchPose2DInferencer]:
    """Upstream's inferencer and ours, without a detector."""
    model = {'one_stage': one_stage, 'top_down': top_down}[request.param]
    upstream = Pose2DInferencer(model.cfg, device='cpu', det_model='whole_image')
    upstream.model.load_state_dict(load_checkpoint(model.weights)['state_dict'])
    ours = BatchPose2DInferencer(model.cfg, model.weights, det_model='whole_image', device='cpu')
    return upstream, ours


def use_loader(pair: tuple, *steps: dict[str, Any]) -> None:
    """Replace the config's loader by other steps."""
    upstream = pair[0]
    cfg = upstream.cfg.copy()
    cfg.test_dataloader = upstream.cfg.test_dataloader.copy()
    dataset = cfg.test_dataloader.dataset = upstream.cfg.test_dataloader.dataset.copy()
    dataset.pipeline = [
        *steps,
        dict(type='ToBGR'),
        *upstream.cfg.test_dataloader.dataset.pipeline[1:],
    ]
    for inferencer in pair:
        inferencer.pipeline = inferencer._init_pipeline(cfg)


def outputs(inferencer: Pose2DInferencer, inputs: list, **options: Any) -> list[list[dict]]:
    results = list(inferencer(inputs, bbox_thr=0.0, nms_thr=0.9, **options))
    assert not any('error' in result for result in results), results
    return [result['predictions'][0] for result in results]


def flat(images: list[list[dict]], name: str) -> np.ndarray:
    return np.concatenate([np.ravel(person[name]) for persons in images for person in persons])


def assert_as_upstream(pair: tuple, inputs: list) -> np.ndarray:
    """Compare all instances with upstream's; returns their keypoints."""
    upstreams, ours = (outputs(inferencer, inputs) for inferencer in pair)
    assert [len(persons) for persons in ours] == [len(persons) for persons in upstreams]
    assert sum(map(len, ours)) >= len(inputs)
    for name, tolerance in (('keypoints', 0.01), ('keypoint_scores', 1e-4)):
        np.testing.assert_allclose(flat(ours, name), flat(upstreams, name), rtol=0, atol=tolerance)
    return flat(ours, 'keypoints')


def load(**settings: Any) -> dict[str, Any]:
    return {'type': 'LoadImage', **settings}


# Steps that replace the loader, whether they change outputs for files, and whether upstream
# supports arrays with them.
LOADERS = {
    'default': ([load()], False, True),
    'float32': ([load(to_float32=True)], True, True),
    'grayscale': ([load(color_type='grayscale')], True, True),
    'unchanged': ([load(color_type='unchanged')], True, True),
    'as stored': ([load(color_type='color_ignore_orientation')], True, True),
    'grey as stored': ([load(color_type='grayscale_ignore_orientation')], True, True),
    'grey of float32': ([load(color_type='grayscale', to_float32=True)], True, True),
    'pillow': ([load(imdecode_backend='pillow')], False, True),
    'the default backend': ([load(imdecode_backend=None)], False, True),
    'ignore empty': ([load(ignore_empty=True)], False, True),
    'a backend': ([load(backend_args={'backend': 'local'})], False, True),
    'a file client': ([load(file_client_args={'backend': 'disk'})], False, True),
    "mmcv's loader": ([load(type='LoadImageFromFile')], False, False),
    "mmcv's loader, float32": ([load(type='LoadImageFromFile', to_float32=True)], True, False),
    'a third-party loader': ([load(type='LoadNegative')], True, True),
    'another first step': ([load(type='RecordMissingImage'), load()], False, True),
}


@pytest.mark.parametrize(('steps', 'differs', '_'), LOADERS.values(), ids=LOADERS)
def test_files_are_loaded_as_in_upstream(pair, files, steps, differs, _):
    use_loader(pair, *steps)
    found = assert_as_upstream(pair, files)
    if differs:  # otherwise the comparison could not fail
        use_loader(pair, load())
        usual = flat(outputs(pair[1], files), 'keypoints')
        assert found.shape != usual.shape or np.abs(found - usual).max() > 0.01


@pytest.mark.parametrize(
    'steps',
    [pytest.param(steps, id=name) for name, (steps, _, arrays) in LOADERS.items() if arrays],
)
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_arrays_are_used_as_in_upstream(pair, steps, dtype):
    use_loader(pair, *steps)
    assert_as_upstream(pair, [picture(120, 90, seed).astype(dtype) for seed in range(2)])


def test_arrays_of_different_types_do_not_share_a_batch(pair):
    images = [picture(120, 90, seed) for seed in range(4)]
    for steps in ([load()], [load(to_float32=True)]):
        use_loader(pair, *steps)
        assert_as_upstream(pair, [images[0], images[1].astype(np.float32), *images[2:]])


def test_arrays_are_accepted_where_upstreams_loader_needs_a_file(pair):
    arrays = [picture(120, 90, seed) for seed in range(2)]
    use_loader(pair, load())
    expected = outputs(pair[1], arrays)
    use_loader(pair, load(type='LoadImageFromFile'))
    assert outputs(pair[1], arrays) == expected


def test_a_pipeline_without_a_loader_is_rejected_at_the_first_file(pair, files):
    use_loader(pair, load(type='GetBBoxCenterScale'))
    message = 'expected LoadImage as the first step, which loads files, found GetBBoxCenterScale'
    with pytest.raises(ValueError, match=message):
        list(pair[1](files))


def test_an_alpha_channel_has_no_effect(pair):
    use_loader(pair, load())
    colour = [picture(120, 90, seed) for seed in range(2)]
    alpha = [np.dstack((image, picture(120, 90, 9)[..., 0])) for image in colour]
    assert outputs(pair[1], alpha) == outputs(pair[1], colour)


def test_images_are_drawn_as_displayed_with_any_loader(pair, files):
    use_loader(pair, load(color_type='grayscale'))
    drawn = [
        [result['visualization'][0] for result in inferencer(files, return_vis=True, kpt_thr=2)]
        for inferencer in pair
    ]
    for upstreams, ours in zip(*drawn, strict=True):
        np.testing.assert_array_equal(ours, upstreams)


class Elsewhere(fileio.LocalBackend):
    """A file backend for paths that do not exist on disk under their names."""

    def get(self, filepath: str) -> bytes:
        return super().get(filepath.removeprefix('elsewhere:'))


@pytest.mark.parametrize('kind', ['LoadImage', 'LoadImageFromFile', 'LoadNegative'])
def test_all_files_are_read_by_the_file_backend_of_the_loader(pair, files, kind):
    fileio.register_backend('elsewhere', Elsewhere, force=True)
    use_loader(pair, load(type=kind))
    expected = outputs(pair[1], files)
    use_loader(pair, load(type=kind, backend_args={'backend': 'elsewhere'}))
    assert outputs(pair[1], [f'elsewhere:{path}' for path in files]) == expected


def test_the_network_gets_an_avif_as_displayed(pair, tmp_path):
    use_loader(pair, load())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / 'turned.avif'
    stored = Image.fromarray(np.rot90(picture(90, 120, 1)[..., ::-1]))
    stored.save(path, exif=exif.tobytes(), quality=100, subsampling='4:4:4')
    decoded = np.rot90(np.array(Image.open(path)), -1)[..., ::-1]
    assert cv2.absdiff(np.ascontiguousarray(decoded), picture(90, 120, 1)).mean() < 4
    assert outputs(pair[1], [str(path)]) == outputs(pair[1], [np.ascontiguousarray(decoded)])


def test_a_pipeline_that_returns_none_fails_only_its_image(pair, files):
    use_loader(pair, load(type='LoadNegative', ignore_empty=True))
    broken = pair[1].pipeline.transforms[0]
    broken.transform = lambda results: (
        None if 'alpha' in results['img_path'] else LoadImage.transform(broken, results)
    )
    errors = [result.get('error') for result in pair[1](files[:3])]
    assert errors == [None, 'expected an input of the network, found None from the pipeline', None]


# ------------------------------------------------------------------------------ the detector


@pytest.fixture(scope='module')
def detecting(top_down: TinyModel) -> BatchPose2DInferencer:
    """A top-down model with a detector that has random weights."""
    cfg = detector_config()
    cfg.test_dataloader.dataset.pipeline.insert(1, {'type': 'mmpose.ToBGR'})
    settings = {'det_model': cfg, 'det_weights': 'none', 'device': 'cpu', 'num_workers': 0}
    return BatchPose2DInferencer(top_down.cfg, top_down.weights, **settings)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'color_type': 'grayscale'},
        {'color_type': 'color_ignore_orientation'},
        {'imdecode_backend': 'pillow'},
        {'to_float32': True},
        {'color_type': 'unchanged', 'to_float32': True},
    ],
)
def test_the_detector_uses_its_own_loader(detecting, files, settings, monkeypatch):
    detector, prepared = detecting.detector, []
    loader = detector.pipeline.transforms[0]
    for name, value in settings.items():
        monkeypatch.setattr(loader.from_file, name, value)
        monkeypatch.setattr(loader.from_ndarray, name, value)
    prepare = detector.prepare
    monkeypatch.setattr(
        detector, 'prepare', lambda image: prepared.append(prepare(image)) or prepared[-1]
    )
    assert not any('error' in result for result in detecting(files))
    for packed, path in zip(prepared[-len(files) :], files, strict=True):
        expected = detector.pipeline(path)  # upstream passes the path to its detector
        assert torch.equal(packed['inputs'], expected['inputs'])
        assert packed['data_samples'].ori_shape == expected['data_samples'].ori_shape
