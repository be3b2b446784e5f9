"""Simple baselines that run the crops of a top-down model through ONNX Runtime, and rtmlib.

Each baseline is written as it is commonly found in projects: short, including what makes it slow.
They need precomputed boxes and do not use the flip test.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.device import get_device
from mmpose.codecs.utils import get_simcc_maximum
from mmpose.structures.bbox import bbox_xyxy2cs, get_warp_matrix

from mmpose_batch.engines.onnx_export import export_onnx, load_network
from mmpose_batch.models.names import load_config, type_name

from .contenders import Models
from .work import Image

PADDED_BATCH = 8


class CropModel:
    """The ONNX file of a SimCC model, with cropping and decoding.

    Args:
        models: Models, of which the pose model is exported.
        batch_size: Fixed batch size of the file; None for any.

    Raises:
        ValueError: The model is not a SimCC model or uses the flip test, or the device is not
            the CPU.
    """

    def __init__(self, models: Models, batch_size: int | None = None) -> None:
        cfg, _ = load_config(models.pose2d)
        head, test_cfg = cfg.model.get('head', {}), cfg.model.get('test_cfg') or {}
        codec = head.get('decoder') or {}
        if cfg.get('data_mode') != 'topdown' or codec.get('type') != 'SimCCLabel':
            raise ValueError(
                'rtmlib and the simple baselines: expected a top-down SimCC model such as RTMPose, '
                f'found {type_name(head.get("type", "no head"))}'
            )
        flip_test = test_cfg.get('flip_test') if models.flip_test is None else models.flip_test
        if flip_test:
            raise ValueError(
                'rtmlib and the simple baselines do not support the flip test: pass --no-flip-test'
            )
        device = models.device or get_device()
        if device != 'cpu':
            raise ValueError(
                f'rtmlib and the simple baselines run on the CPU only, not on {device}: pass '
                '--device cpu'
            )
        normalization = cfg.model.data_preprocessor
        self.mean, self.std = tuple(normalization.mean), tuple(normalization.std)
        self.width, self.height = codec.input_size
        self.split_ratio = codec.simcc_split_ratio
        pipeline = cfg.test_dataloader.dataset.pipeline
        boxes = next(step for step in pipeline if step['type'] == 'GetBBoxCenterScale')
        self.padding = boxes.get('padding', 1.25)
        network, size = load_network(models.pose2d, models.pose2d_weights)
        self._folder = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        self.path = Path(self._folder.name) / 'network.onnx'
        export_onnx(network, self.path, size, batch_size)

    def warp(self, image: np.ndarray, bbox: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        """The crop (H, W, 3) of one person, its center and its scale in pixels of the image."""
        center, scale = bbox_xyxy2cs(bbox, padding=self.padding)
        width, height = scale
        ratio = self.width / self.height
        scale = np.array([max(width, height * ratio), max(height, width / ratio)])
        matrix = get_warp_matrix(center, scale, 0, output_size=(self.width, self.height))
        size = (self.width, self.height)
        return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR), center, scale

    def decode(self, outputs: Sequence[np.ndarray], center: Any, scale: Any) -> np.ndarray:
        """Keypoints (1, K, 3) in pixels of the image, with scores, of one crop's outputs."""
        locations, scores = get_simcc_maximum(outputs[0], outputs[1])
        points = locations / self.split_ratio / (self.width, self.height) * scale
        return np.concatenate((points + center - scale / 2, scores[..., None]), axis=-1)


class CropSystem(ABC):
    """Base class of the baselines; see :class:`mmpose_batch.benchmarking.systems.System`."""

    batch_size: int | None = None

    def __init__(self, models: Models, num_threads: int | None) -> None:
        import onnxruntime

        self.model = CropModel(models, self.batch_size)
        self.num_threads = num_threads or torch.get_num_threads()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.session_threads()
        self.sessions = {
            'pose': onnxruntime.InferenceSession(
                self.model.path, options, providers=['CPUExecutionProvider']
            )
        }

    def session_threads(self) -> int:
        """Threads of one call of the session."""
        return self.num_threads

    @abstractmethod
    def infer(self, image: np.ndarray, bboxes: np.ndarray) -> list[np.ndarray]:
        """Keypoints of every person in an image."""

    def prepare(self, images: Sequence[Image]) -> None:  # noqa: B027
        """Do nothing: there is no warm-up."""

    def run(self, images: Sequence[Image]) -> dict[str, Any]:
        """Infer all images once."""
        start, persons = time.perf_counter(), 0
        for image in images:
            persons += len(self.infer(cv2.imread(image.path), image.bboxes))
        return {'seconds': time.perf_counter() - start, 'persons': persons, 'stages': {}}

    def limits(self, images: Sequence[Image]) -> dict[str, Any]:
        """Empty: limits are measured for this package only."""
        return {}

    def report(self) -> dict[str, Any]:
        """Number of threads."""
        return {'num_threads': self.num_threads}

    def infer_crop(self, image: np.ndarray, bbox: np.ndarray) -> np.ndarray:
        """Keypoints of one person by a separate call, which looks everything up again."""
        crop, center, scale = self.model.warp(image, bbox)
        mean = np.array(self.model.mean)
        std = np.array(self.model.std)
        crop = (crop[:, :, ::-1] - mean) / std  # float64, as is common
        inputs = crop.transpose(2, 0, 1)[None].astype(np.float32)
        session = self.sessions['pose']
        input_name = session.get_inputs()[0].name
        output_names = [output.name for output in session.get_outputs()]
        return self.model.decode(session.run(output_names, {input_name: inputs}), center, scale)


class CropByCrop(CropSystem):
    """One call per crop."""

    def infer(self, image: np.ndarray, bboxes: np.ndarray) -> list[np.ndarray]:
        """See :class:`CropSystem`."""
        return [self.infer_crop(image, bbox) for bbox in bboxes]


class PaddedBatches(CropSystem):
    """A network for batches of 8 crops; the last batch of each image is padded with zeros."""

    batch_size = PADDED_BATCH

    def infer(self, image: np.ndarray, bboxes: np.ndarray) -> list[np.ndarray]:
        """See :class:`CropSystem`."""
        mean, std = (np.array(x, np.float32) for x in (self.model.mean, self.model.std))
        found = []
        for first in range(0, len(bboxes), PADDED_BATCH):
            inputs = np.zeros((PADDED_BATCH, 3, self.model.height, self.model.width), np.float32)
            places = []
            for slot, bbox in enumerate(bboxes[first : first + PADDED_BATCH]):
                crop, center, scale = self.model.warp(image, bbox)
                inputs[slot] = ((crop[:, :, ::-1] - mean) / std).transpose(2, 0, 1)
                places.append((center, scale))
            outputs = self.sessions['pose'].run(None, {'input': inputs})
            for slot, (center, scale) in enumerate(places):
                part = [output[slot : slot + 1] for output in outputs]
                found.append(self.model.decode(part, center, scale))
        return found


class ThreadPool(CropSystem):
    """A thread pool that runs single crops on one session."""

    def __init__(self, models: Models, num_threads: int | None) -> None:
        super().__init__(models, num_threads)
        self._pool = ThreadPoolExecutor(self.num_threads)

    def session_threads(self) -> int:
        """One thread per call, since the pool runs several calls concurrently."""
        return 1

    def infer(self, image: np.ndarray, bboxes: np.ndarray) -> list[np.ndarray]:
        """See :class:`CropSystem`."""
        return list(self._pool.map(lambda bbox: self.infer_crop(image, bbox), bboxes))


class RtmLib(CropSystem):
    """rtmlib, with the same weights, as its documentation runs it."""

    def __init__(self, models: Models, num_threads: int | None) -> None:
        try:
            from rtmlib import RTMPose
        except ImportError as error:
            raise ValueError(
                f'rtmlib is not installed: pip install --no-deps rtmlib ({error})'
            ) from error
        if num_threads is not None:
            raise ValueError(
                'rtmlib has no option for threads: use --cpu-affinity instead of --num-threads'
            )
        self.model = CropModel(models)
        with redirect_stdout(StringIO()):
            self._pose = RTMPose(
                str(self.model.path),
                model_input_size=(self.model.width, self.model.height),
                mean=self.model.mean,
                std=self.model.std,
                backend='onnxruntime',
                device='cpu',
            )

    def infer(self, image: np.ndarray, bboxes: np.ndarray) -> list[np.ndarray]:
        """See :class:`CropSystem`."""
        return list(self._pose(image, bboxes)[0]) if len(bboxes) else []

    def report(self) -> dict[str, Any]:
        """Empty: rtmlib has no option for threads."""
        return {}


CROP_SYSTEMS = {
    'crop-by-crop': CropByCrop,
    'padded-batches': PaddedBatches,
    'thread-pool': ThreadPool,
}
