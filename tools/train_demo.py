#!/usr/bin/env python
"""Train one of the demo models on synthetic scenes with the runner of MMEngine."""

import argparse
import hashlib
import json
import os
import os.path as osp
import pickle
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dist import barrier, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmpose_batch.cli.console import fail
from mmpose_batch.cli.options import number
from mmpose_batch.cores import available_cores, single_opencv_thread
from mmpose_batch.models.checkpoint import allowed_types
from mmpose_batch.scenes import SceneOptions, write_scenes

ROOT = Path(__file__).resolve().parents[1]
TOOL = 'train_demo'
NAMES = ('demo-rtmpose', 'demo-rtmdet', 'demo-rtmo')
# Seeds of the scenes; the demo and the tests use other seeds.
TRAIN_SEED, VAL_SEED = 1, 2
# Seconds that processes wait for the process that draws and prepares.
TIMEOUT = 12 * 60 * 60


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/train_demo.py demo-rtmpose --resume. On a CPU, one process per core '
        'is faster: torchrun --nproc_per_node 2 tools/train_demo.py demo-rtmpose',
    )
    parser.add_argument(
        'model', choices=NAMES, help='model to train; its schedule is in configs/demo'
    )
    parser.add_argument(
        '--data-root',
        default='data/scenes',
        metavar='DIR',
        help='folder for the scenes, which are drawn once (default: %(default)s)',
    )
    for name, count, use in (('train', 8000, 'training'), ('val', 500, 'validation')):
        parser.add_argument(
            f'--{name}-scenes',
            type=number(1),
            default=count,
            metavar='N',
            help=f'number of {use} scenes (default: %(default)s)',
        )
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder for logs and checkpoints (default: work_dirs/MODEL)',
    )
    parser.add_argument('--resume', action='store_true', help='resume from the last checkpoint')
    parser.add_argument(
        '--out', metavar='FILE', help='weights file to write (default: configs/demo/MODEL.pth)'
    )
    parser.add_argument(
        '--num-threads',
        type=number(1),
        metavar='N',
        help="threads of PyTorch (default: PyTorch's own choice)",
    )
    parser.add_argument(
        '--prepared',
        type=number(0),
        default=0,
        metavar='N',
        help='preprocess N epochs of samples once, store them on disk (1 to 2 GB each) and draw '
        'from them at random (default: 0, preprocess every sample again, which takes half of the '
        'training time of a small network)',
    )
    parser.add_argument(
        '--bfloat16',
        action='store_true',
        help='compute backbone and neck in bfloat16, which is faster on processors that support it',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='changes to the config',
    )
    args = parser.parse_args(arguments)
    args.work_dir = args.work_dir or osp.join('work_dirs', args.model)
    args.out = args.out or str(ROOT / 'configs' / 'demo' / f'{args.model}.pth')
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reject arguments that would only fail after hours of training."""
    folder = osp.dirname(osp.abspath(args.out))
    if osp.isdir(args.out) or not os.access(folder, os.W_OK):
        parser.error(f'--out: cannot write {args.out}')
    begun = osp.exists(osp.join(args.work_dir, 'last_checkpoint'))
    if args.resume and not begun:
        parser.error(f'--resume: no checkpoint in {args.work_dir}')
    if begun and not args.resume:
        parser.error(
            f'{args.work_dir} contains a run: resume it (--resume), or choose another --work-dir'
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the scenes, train, and write the weights; returns the exit status."""
    args = parse_args(arguments)
    try:
        cfg = read_config(args)
        scenes = find_scenes(args, cfg)
        check_scenes(scenes)
        # Nothing above changes the state of the process or builds anything expensive.
        if args.num_threads:
            torch.set_num_threads(args.num_threads)
        connect(cfg)
        runner = Runner.from_cfg(cfg)  # rejects a wrong config before the scenes are drawn
        if is_main_process():
            draw_scenes(scenes)
    except ValueError as error:
        return fail(TOOL, 2, error)
    except OSError as error:
        return fail(TOOL, 1, error)
    barrier()
    if not torch.cuda.is_available():
        use_channels_last(plain(runner.model))
    if args.bfloat16:
        use_bfloat16(plain(runner.model))
    with allowed_types():  # for --resume: torch rejects types in MMEngine's checkpoints
        runner.train()
    if is_main_process():
        save_weights(runner, args.out)
        print(f'weights: {args.out}')
    return 0


@DATASETS.register_module(force=True)  # this file may be loaded again
class PreparedSamples(Dataset):
    """Samples of a dataset, preprocessed several times and stored in files.

    Args:
        dataset: Config of the dataset, with its random pipeline.
        folder: Folder for the files, one per epoch; existing files of the same config,
            annotations and first image are used again.
        epochs: Number of times that every sample is preprocessed; each access returns a random
            one of them.
        num_workers: Number of processes for preprocessing.
    """

    def __init__(self, dataset: dict[str, Any], folder: str, epochs: int, num_workers: int) -> None:
        self._dataset = DATASETS.build(dataset)
        self.metainfo = self._dataset.metainfo
        source = json.dumps(dataset, sort_keys=True, default=str).encode()
        for path in (self._dataset.ann_file, self._dataset.get_data_info(0)['img_path']):
            source += Path(path).read_bytes()
        self._folder = Path(folder) / hashlib.sha256(source).hexdigest()[:16]
        self._epochs = epochs
        if is_main_process():
            self._prepare(num_workers)
        barrier()
        self._bytes = [np.memmap(path.with_suffix('.bin'), mode='r') for path in self._paths()]
        self._ends = [np.load(path.with_suffix('.npy')) for path in self._paths()]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        epoch = random.randrange(self._epochs)
        start, end = self._ends[epoch][index : index + 2]
        return pickle.loads(self._bytes[epoch][start:end])

    def _paths(self) -> list[Path]:
        return [self._folder / f'{epoch}' for epoch in range(self._epochs)]

    def _prepare(self, num_workers: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for epoch, path in enumerate(self._paths()):
            if path.with_suffix('.npy').exists():
                continue
            loader = DataLoader(
                self._dataset,
                batch_size=32,
                num_workers=num_workers,
                collate_fn=_pickled,
                generator=torch.Generator().manual_seed(epoch),
            )
            ends = [0]
            with open(path.with_suffix('.bin'), 'wb') as file:
                for samples in loader:
                    file.writelines(samples)
                    ends.extend(len(sample) for sample in samples)
            np.save(path.with_suffix('.npy'), np.cumsum(ends))


def _pickled(samples: Sequence[Any]) -> list[bytes]:
    return [pickle.dumps(sample) for sample in samples]


class Scenes(NamedTuple):
    """A folder of synthetic scenes, and the scenes that it must contain."""

    folder: Path
    count: int
    seed: int
    options: SceneOptions

    @property
    def annotations(self) -> Path:
        """The annotation file, which is written last."""
        return self.folder / 'annotations.json'


def find_scenes(args: argparse.Namespace, cfg: Config) -> list[Scenes]:
    """The scenes for training and for validation.

    Raises:
        ValueError: The config has a scene option that does not exist.
    """
    dataset = cfg.train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)  # the dataset inside PreparedSamples
    root = Path(args.data_root)
    train = root / dataset.data_prefix.img
    return [
        Scenes(train, args.train_scenes, TRAIN_SEED, _scene_options(cfg)),
        Scenes(root / 'val', args.val_scenes, VAL_SEED, SceneOptions()),
    ]


def check_scenes(scenes: Sequence[Scenes]) -> None:
    """Reject folders that hold other scenes.

    Raises:
        ValueError: A folder does.
    """
    for part in scenes:
        if part.annotations.exists() and not _are_there(part):
            raise ValueError(
                f'{part.folder} contains other scenes than the config needs ({part.count} of seed '
                f'{part.seed}); remove it, or choose another --data-root'
            )


def draw_scenes(scenes: Sequence[Scenes]) -> None:
    """Draw the missing scenes."""
    for part in scenes:
        if not part.annotations.exists():
            write_scenes(part.folder, part.count, part.seed, part.options)


def _scene_options(cfg: Config) -> SceneOptions:
    try:
        return SceneOptions(**cfg.scene_options)
    except TypeError as error:  # no such option
        raise ValueError(f'scene_options: {error}') from None


def _are_there(scenes: Scenes) -> bool:
    """Whether a folder contains its scenes: compares the first one with a new drawing of it."""
    with (
        tempfile.TemporaryDirectory(prefix='mmpose_batch-') as name,
        single_opencv_thread(),  # drawing changes this setting
    ):
        first = write_scenes(name, 1, scenes.seed, scenes.options, quiet=True)
        expected = _first_scene(first)[1:]
    try:
        number, *found = _first_scene(scenes.annotations)
    except (ValueError, OSError):  # an incomplete file, or a missing image
        return False
    return number == scenes.count and found == expected


def _first_scene(annotations: Path) -> list[Any]:
    """The number of images, and the file and the persons of the first."""
    content = json.loads(annotations.read_text(encoding='utf-8'))
    image = content['images'][0]
    persons = [entry for entry in content['annotations'] if entry['image_id'] == image['id']]
    return [len(content['images']), (annotations.parent / image['file_name']).read_bytes(), persons]


def read_config(args: argparse.Namespace) -> Config:
    """The config of the model, with this machine's paths."""
    path = str(ROOT / 'configs' / 'demo' / f'{args.model}.py')
    # MMEngine writes the config five times per run and into every checkpoint. Formatting it takes
    # up to a second each time, and fromfile ignores format_python_code.
    values = Config.fromfile(path).to_dict()
    cfg = Config(values, filename=path, format_python_code=False)
    data_root = osp.join(args.data_root, '')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = data_root
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = osp.join(data_root, 'val', 'annotations.json')
    cfg.work_dir = args.work_dir
    cfg.resume = args.resume
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    processes = int(os.environ.get('WORLD_SIZE', 1))
    if processes > 1:
        distribute(cfg, processes)
    if args.prepared:
        cfg.train_dataloader.dataset = dict(
            type='PreparedSamples',
            _scope_='mmengine',
            dataset=dict(cfg.train_dataloader.dataset, _scope_=cfg.default_scope),
            folder=osp.join(cfg.work_dir, 'prepared'),
            epochs=args.prepared,
            num_workers=available_cores(),
        )
    return cfg


def distribute(cfg: Config, processes: int) -> None:
    """Share the batches of a config among the processes that torchrun started.

    Raises:
        ValueError: The batch size is not divisible by the number of processes.
    """
    loader = cfg.train_dataloader
    if loader.batch_size % processes:
        raise ValueError(
            f'a batch of {loader.batch_size} cannot be divided among {processes} processes'
        )
    loader.batch_size //= processes
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=True)
    if torch.cuda.is_available():
        cfg.env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=TIMEOUT))
    else:
        cfg.model_wrapper_cfg.device_ids = None


def connect(cfg: Config) -> None:
    """Connect the processes of a distributed config on a CPU, for which MMEngine needs a GPU."""
    if cfg.get('launcher') == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=TIMEOUT))


def use_channels_last(model: nn.Module) -> None:
    """Use the memory layout that makes a training step on a CPU a quarter faster."""
    model.to(memory_format=torch.channels_last)
    model.backbone.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].contiguous(memory_format=torch.channels_last),)
    )


def use_bfloat16(model: nn.Module) -> None:
    """Compute features in bfloat16; coordinates and losses need the precision of float32."""
    device = next(model.parameters()).device.type
    for module in (model.backbone, model.neck):
        module.forward = _in_bfloat16(module.forward, device)


def _in_bfloat16(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    def cast(*features: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            found = forward(*features)
        return tuple(feature.float() for feature in found)

    return cast


def plain(model: nn.Module) -> nn.Module:
    """The model without its wrapper for distributed training."""
    return model.module if is_model_wrapper(model) else model


def save_weights(runner: Runner, path: str) -> None:
    """Write the averaged weights as plain tensors, with the plain ``dataset_meta``.

    Tensors of two and more dimensions become float16, which halves the file.
    """
    model = plain(runner.model)
    for hook in runner.hooks:
        if hasattr(hook, 'ema_model'):
            model = hook.ema_model.module
    state = {name: _compact(tensor) for name, tensor in model.state_dict().items()}
    meta = {'dataset_meta': _plain(runner.train_dataloader.dataset.metainfo)}
    part = f'{path}.part'
    torch.save({'meta': meta, 'state_dict': state}, part)
    os.replace(part, path)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def _plain(value: Any) -> Any:
    """A value with lists instead of arrays, as ``weights_only=True`` requires."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if hasattr(value, 'tolist') else value


if __name__ == '__main__':
    sys.exit(main())
