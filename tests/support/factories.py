"""Files of models and photos, and the tools as functions and as separate processes."""

import concurrent.futures.thread
import importlib.util
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmdet.apis import DetInferencer
from mmengine.infer import BaseInferencer
from mmpose.apis.inferencers import Pose2DInferencer

import mmpose_batch.runs.run
from mmpose_batch.evaluation.annotations import read_annotations
from mmpose_batch.evaluation.ap import evaluate
from mmpose_batch.evaluation.coco_results import to_coco
from mmpose_batch.evaluation.metric import ScoringOptions
from mmpose_batch.models.checkpoint import allowed_types
from mmpose_batch.models.names import default_filters
from mmpose_batch.results import ImageResult, to_record
from mmpose_batch.runs.locking import LOCK_NAME
from mmpose_batch.sources.base import Frame

from .tiny import build_tiny, detector_config, one_stage_config, picture, save, top_down_config

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

# Modules that are imported in the server which forks processes for tests.
FORKED_WITH = ['mmpose_batch.runs.run', 'support.factories']

REAL_DETECTOR = 'demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py'


@dataclass(frozen=True)
class Models:
    """Files of the tiny models, and arguments of the tools that name them."""

    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def one_stage(self) -> list[str]:
        return ['--pose2d', self.file('rtmo.py'), '--pose2d-weights', self.file('rtmo.pth')]

    @property
    def crops(self) -> list[str]:
        """A top-down model without a detector."""
        return ['--pose2d', self.file('rtmpose.py'), '--pose2d-weights', self.file('rtmpose.pth')]

    @property
    def whole_image(self) -> list[str]:
        return [*self.crops, '--det-model', 'whole_image']

    @property
    def top_down(self) -> list[str]:
        weights = ['--det-weights', self.file('rtmdet.pth')]
        return [*self.crops, '--det-model', self.file('rtmdet.py'), *weights, '--bbox-thr', '0.0']


def build_models(folder: Path) -> Models:
    """Write the configs and weights of a tiny RTMO, RTMPose and RTMDet as files."""
    rtmo, rtmpose, rtmdet = one_stage_config(), top_down_config(), detector_config()
    # Random weights detect a person everywhere: keep the best.
    rtmo.model.test_cfg.nms_pre = 4
    rtmdet.model.test_cfg.update(score_thr=0.0, max_per_img=3)
    for name, cfg in (('rtmo', rtmo), ('rtmpose', rtmpose), ('rtmdet', rtmdet)):
        lines = (f'{key} = {value!r}\n' for key, value in cfg.to_dict().items())
        (folder / f'{name}.py').write_text(
            ''.join(lines)
        )  # cfg.dump would take seconds to format it
    build_tiny(rtmo, folder / 'rtmo.pth')
    build_tiny(rtmpose, folder / 'rtmpose.pth')
    torch.manual_seed(0)
    detector = DetInferencer(rtmdet, device='cpu', scope='mmdet', show_progress=False).model
    for distances in detector.bbox_head.rtm_reg:
        distances.bias.data.fill_(
            2
        )  # in strides; without this, boxes of random weights have no area
    torch.save({'state_dict': detector.state_dict()}, folder / 'rtmdet.pth')
    return Models(folder)


def real_models(shared: Path) -> dict[str, list[str]]:
    """Arguments of the tools for the real checkpoints next to the repository."""
    mmpose = Path(BaseInferencer._get_repo_or_mim_dir('mmpose'))
    coco = mmpose / 'configs' / 'body_2d_keypoint'
    return {
        'one_stage': [
            *('--pose2d', str(coco / 'rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py')),
            *('--pose2d-weights', str(shared / 'models/rtmo-s_four-photos.pth')),
        ],
        'top_down': [
            *('--pose2d', str(coco / 'rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py')),
            *('--pose2d-weights', str(shared / 'models/rtmpose-s_four-photos.pth')),
            *('--det-model', str(mmpose / REAL_DETECTOR)),
            *('--det-weights', str(shared / 'models/rtmdet-nano_person.pth')),
            *('--det-cat-ids', '0'),
        ],
    }


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of three sizes, named by their image id like those of COCO."""
    paths = [folder / f'{number:012}.jpg' for number in range(count)]
    for number, path in enumerate(paths):
        width, height = ((160, 120), (120, 160), (144, 96))[number % 3]
        save(path, picture(width, height, number))
    return paths


def our_threads() -> list[str]:
    """Names of this package's running threads, except those of inferencers' pools."""
    names = [thread.name for thread in threading.enumerate()]
    return [n for n in names if n.startswith('mmpose_batch') and 'mmpose_batch_pool' not in n]


def busy_threads() -> list[str]:
    """Names of this package's threads that are not idle in a pool."""
    frames = sys._current_frames()
    idle = {
        number
        for number, frame in frames.items()
        if frame.f_code.co_filename == concurrent.futures.thread.__file__
    }
    ours = [t for t in threading.enumerate() if t.name.startswith('mmpose_batch')]
    return [thread.name for thread in ours if thread.ident not in idle]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records in a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def files_below(folder: Path) -> dict[str, bytes]:
    """Path and content of all files below a folder, except the lock and run.json with its times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.name not in ('run.json', LOCK_NAME)
    }


def upstream_metrics(arguments: dict[str, Any], folder: Path, ann_file: Path | str) -> dict:
    """AP and AR of upstream's ``Pose2DInferencer`` over the annotated images of a folder."""
    with allowed_types():  # by default, torch.load rejects MMEngine's files
        upstream = Pose2DInferencer(**arguments, device='cpu')
    filters = default_filters(upstream.cfg)
    scoring = ScoringOptions.from_config(upstream.cfg)
    images = read_annotations(str(ann_file))['images']
    results = []
    for image in images:
        path = str(folder / image['file_name'])
        (result,) = upstream(path, return_datasamples=True, **filters)
        frame = Frame(0, path, image['file_name'])
        record = to_record(ImageResult(frame, (1, 1), result['predictions']))
        results += to_coco(record, image['id'], scoring.score_mode, scoring.keypoint_score_thr)
    ids = [image['id'] for image in images]
    return evaluate(str(ann_file), results, ids, upstream.model.dataset_meta['sigmas'], scoring)


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a tool."""

    status: int
    out: str
    err: str


def run_tool(*arguments: object, tool: str = 'batch_infer') -> Outcome:
    """Call the main function of a tool with command line arguments."""
    out, err = io.StringIO(), io.StringIO()
    previous = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = load_tool(tool).main([str(argument) for argument in arguments])
        except SystemExit as error:  # from argparse
            status = error.code
        finally:
            signal.signal(signal.SIGTERM, previous)
    return Outcome(status, out.getvalue(), err.getvalue())


def load_tool(name: str) -> ModuleType:
    """The module of the command that a script in tools/ runs, or else the script as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    with unittest.mock.patch('sys.path', [str(TOOLS), *sys.path]):
        spec.loader.exec_module(module)
    return sys.modules.get(module.main.__module__, module)


def run_script(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a shell script of tools/ with this Python first in its PATH."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return subprocess.run(
        [str(TOOLS / f'{name}.sh'), *map(str, arguments)],
        env={**os.environ, 'PATH': path, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )


class ToolProcess:
    """A tool in a separate process, which a test can kill.

    A server with all imports forks it, since importing takes seconds.

    Args:
        arguments: The command line.
        log: File for the output of the process.
        checkpoint_every: Images per chunk, instead of 256, which would take minutes.
        main: Function to run instead of :func:`main_of_process`, with the same arguments.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        checkpoint_every: int = 8,
        main: Callable[[list[str], str, int], None] | None = None,
    ) -> None:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(FORKED_WITH)
        self._log = log
        self._process = context.Process(
            target=main or main_of_process,
            args=([str(argument) for argument in arguments], str(log), checkpoint_every),
        )
        self._process.start()

    def wait_for_lines(self, path: Path, count: int) -> None:
        """Wait until a file has that many lines or the process has ended."""
        deadline = time.monotonic() + 600
        while (
            time.monotonic() < deadline
            and self._process.is_alive()
            and (not path.exists() or path.read_bytes().count(b'\n') < count)
        ):
            time.sleep(0.001)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120) -> Outcome:
        """Wait for the process to end; if it does not in time, kill it and fail the test."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            raise AssertionError(f'still running after {seconds} s:\n{self._log.read_text()}')
        return Outcome(status, '', self._log.read_text())


def main_of_process(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """Run the tool with its output in a file."""
    mmpose_batch.sources.items.CHUNK = checkpoint_every
    # SIGINT is ignored if a shell started the tests in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with open(log, 'w') as file, redirect_stdout(file), redirect_stderr(file):
        tool = load_tool('batch_infer')
        print('the tool begins', flush=True)
        sys.exit(tool.main(arguments))
