"""A run that was killed, or filled the disk, resumes to the files of an uninterrupted run."""

import json
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import threading
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.annotated import annotations, written
from support.factories import (
    Models,
    Outcome,
    ToolProcess,
    files_below,
    main_of_process,
    read_lines,
    real_models,
    run_tool,
    write_photos,
)
from support.tiny import picture

from mmpose_batch.runs.info import RunInfo
from mmpose_batch.runs.locking import locked
from mmpose_batch.runs.run import Run
from mmpose_batch.sources.items import Items
from mmpose_batch.writers.jsonl import JsonLinesFile
from mmpose_batch.writers.options import RunOptions

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')
slow = pytest.mark.slow

COUNT, CHUNK = 44, 8  # the last block is not full
FORMATS = ('--format', 'json', 'coco', '--save-vis')


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three sizes, and files that are not images in the first and in later blocks."""
    folder = tmp_path_factory.mktemp('photos')
    for path in write_photos(folder, COUNT)[3::13]:
        path.write_bytes(b'no image')
    return folder


def wait_for_a_signal(log: str) -> None:
    print('the tool waits for a signal', flush=True)
    Path(log).with_name('waits').write_text('\n')
    threading.Event().wait()


def wait_at(place: str, text: str, log: str) -> None:
    """Wait for a signal in a function, at its first call whose arguments contain a text."""
    function = pkgutil.resolve_name(place)

    def call_or_wait(*args: Any, **kwargs: Any) -> Any:
        if not text or text in str(args):
            wait_for_a_signal(log)
        return function(*args, **kwargs)

    unittest.mock.patch(place, call_or_wait).start()


def main_that_waits(place: str, text: str, maximum: int, *arguments: Any) -> None:
    """Run the tool in a separate process, which waits for a signal before it is finished.

    Args:
        place: Function in which it waits; '' for none.
        text: Text in the arguments of the call in which it waits.
        maximum: Number of records after which it waits, including those of earlier runs.
        arguments: Arguments of :func:`main_of_process`.
    """
    log = arguments[1]
    append = JsonLinesFile.append
    counts = []

    def append_or_wait(file: JsonLinesFile, record: dict[str, Any]) -> None:
        if file.path.endswith('predictions.jsonl'):
            counts.append(counts[-1] + 1 if counts else count_lines(Path(file.path)))
            if counts[-1] >= maximum:
                wait_for_a_signal(log)
        append(file, record)

    JsonLinesFile.append = append_or_wait
    if place:
        wait_at(place, text, log)
    main_of_process(*arguments)


class Tool:
    """The tool over a folder of photos, which tests interrupt and resume."""

    def __init__(self, photos: Path, folder: Path, arguments: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.out_dir = folder / 'out'
        self.records = self.out_dir / 'predictions.jsonl'
        self.log = folder / 'log'
        self.waits = folder / 'waits'  # exists once the process waits for a signal
        self.arguments = [photos, '--out-dir', self.out_dir, *arguments]

    def start(
        self,
        *more: str,
        block: int = CHUNK,
        place: str = '',
        text: str = '',
        maximum: int = COUNT - 1,
    ) -> ToolProcess:
        """Start a process that does not end without a signal."""
        main = partial(main_that_waits, place, text, maximum)
        return ToolProcess([*self.arguments, *more], self.log, block, main)

    def finish(self, *more: str) -> Outcome:
        return run_tool(*self.arguments, *more)

    def interrupt(self, lines: int, number: signal.Signals, **options: int) -> Outcome:
        """Start a process, and send a signal once it has written that many lines."""
        process = self.start(**options)
        process.wait_for_lines(self.records, lines)
        process.send(number)
        return process.wait()


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b'\n')


@pytest.fixture(params=['one_stage', 'top_down'])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tool(kind: str, photos: Path, models: Models, tmp_path: Path) -> Tool:
    return Tool(photos, tmp_path, [*getattr(models, kind), *FORMATS])


@pytest.fixture(scope='module')
def uninterrupted(
    photos: Path,
    models: Models,
    one_thread: None,
    small_chunks: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The output of an uninterrupted run, for each kind of model."""
    folders = {}
    for kind in ('one_stage', 'top_down'):
        folder = tmp_path_factory.mktemp('uninterrupted')
        tool = Tool(photos, folder, [*getattr(models, kind), *FORMATS])
        assert tool.finish().status == 3
        assert (count_lines(tool.records), count_lines(tool.out_dir / 'failures.jsonl')) == (44, 4)
        folders[kind] = tool.out_dir
    return folders


# -------------------------------------------------------------------------------- killing


KILLS = [
    pytest.param('one_stage', CHUNK + 1),
    pytest.param('top_down', 3 * CHUNK - 1),
    pytest.param('one_stage', 1, marks=slow),
    pytest.param('one_stage', CHUNK, marks=slow),
    pytest.param('top_down', 4 * CHUNK, marks=slow),
]


@pytest.mark.parametrize(('kind', 'lines'), KILLS)
def test_a_killed_run_resumes_to_the_same_files(tool, kind, uninterrupted, lines):
    assert tool.interrupt(lines, signal.SIGKILL).status == -signal.SIGKILL
    done = count_lines(tool.records)
    assert lines <= done < COUNT
    outcome = tool.finish('--resume')
    assert outcome.status == 3
    assert files_below(tool.out_dir) == files_below(uninterrupted[kind])
    resumed = done - done % CHUNK
    info = json.loads((tool.out_dir / 'run.json').read_text())
    assert info['status'] == 'finished'
    assert info['counts']['images'] == COUNT
    assert info['counts']['resumed'] == resumed
    assert (f'({resumed} of them by an earlier run)' in outcome.out) == (resumed > 0)


# Functions that are called at the end of a run; text in the arguments of the call that does not
# return; and the content of the folder at that time.
ENDS = {
    'AP': ('xtcocotools.cocoeval.COCOeval.accumulate', '', set()),
    'COCO file': ('orjson.dumps', "'file_name': '000000000005.jpg'", {'.partial'}),
    'name of COCO file': ('os.replace', 'predictions.coco.json', {'.partial'}),
    'last run.json': (
        'json.dumps',
        "'status': 'finished'",
        {'.partial', 'predictions.coco.json'},
    ),
}


@dataclass(frozen=True)
class Evaluated:
    """Photos with annotations, and an uninterrupted run over them."""

    tool: Tool
    photos: Path
    arguments: list[str]

    def another(self, folder: Path) -> Tool:
        """A run with the same arguments that has not started."""
        return Tool(self.photos, folder, self.arguments)


def metrics_of(tool: Tool) -> dict[str, float | None]:
    return json.loads((tool.out_dir / 'run.json').read_text())['metrics']


@pytest.fixture(scope='module')
def evaluated(
    models: Models,
    one_thread: None,
    small_chunks: None,
    shared_inferencers: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Evaluated:
    folder = tmp_path_factory.mktemp('evaluated')
    photos, count = folder / 'in', CHUNK + 2
    write_photos(photos, count)
    truth = annotations(count, 0)
    assert run_tool(photos, '--out-dir', folder / 'first', *models.one_stage).status == 0
    for number, record in enumerate(read_lines(folder / 'first' / 'predictions.jsonl')):
        for person in record['instances'][::2]:  # the others are wrong
            truth['annotations'].append(annotation_of(person, len(truth['annotations']), number))
    arguments = [*models.one_stage, *FORMATS[:3], '--ann-file', written(folder, truth)]
    tool = Tool(photos, folder, arguments)
    assert tool.finish().status == 0
    assert 0 < metrics_of(tool)['AP'] < 1
    return Evaluated(tool, photos, arguments)


def annotation_of(person: dict[str, Any], number: int, image: int) -> dict[str, Any]:
    x1, y1, x2, y2 = person['bbox']
    return {
        **{'id': number + 1, 'image_id': image, 'category_id': 1, 'iscrowd': 0},
        **{'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)},
        'num_keypoints': 17,
        'keypoints': [value for x, y in person['keypoints'] for value in (x, y, 2)],
    }


ENDINGS = [
    *(pytest.param(end, signal.SIGKILL, id=end) for end in ENDS),
    pytest.param('COCO file', signal.SIGTERM, id='COCO file, stopped'),
]


@pytest.mark.parametrize(('end', 'number'), ENDINGS)
def test_a_run_ended_while_it_finishes_resumes_to_the_same_files(evaluated, tmp_path, end, number):
    place, text, expected = ENDS[end]
    killed = number == signal.SIGKILL
    tool = evaluated.another(tmp_path)
    process = tool.start(place=place, text=text)
    process.wait_for_lines(tool.waits, 1)
    process.send(number)
    outcome = process.wait()
    assert outcome.status == (-signal.SIGKILL if killed else 143), outcome.err
    assert tool.records.read_bytes() == evaluated.tool.records.read_bytes()
    made = {re.sub('^(.partial)-.*', r'\1', name) for name in files_below(tool.out_dir)}
    made &= {'.partial', 'predictions.coco.json'}
    assert made == (expected if killed else set())
    info = json.loads((tool.out_dir / 'run.json').read_text())
    assert info['status'] == ('running' if killed else 'stopped')
    assert tool.finish('--resume').status == 0
    assert files_below(tool.out_dir) == files_below(evaluated.tool.out_dir)
    assert metrics_of(tool) == metrics_of(evaluated.tool)


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes_to_the_same_files(tool, kind, uninterrupted):
    rng = random.Random(kind)
    for _ in range(5):
        process = tool.start('--resume')
        process.wait_for_lines(tool.log, 1)
        # From the building of the model, when no new line is written yet, to the last block.
        process.wait_for_lines(tool.records, rng.randrange(COUNT - CHUNK // 2))
        process.send(signal.SIGKILL)
        assert process.wait().status == -signal.SIGKILL
    assert tool.finish('--resume').status == 3
    assert files_below(tool.out_dir) == files_below(uninterrupted[kind])


TORN = [
    pytest.param(lambda data: data[:-40], id='in the middle of a line'),
    pytest.param(lambda data: data[:-1], id='before a line end', marks=slow),
    pytest.param(lambda data: data[:20], id='in the first line', marks=slow),
    pytest.param(lambda data: b'', id='to nothing', marks=slow),
    pytest.param(lambda data: data[:-200] + bytes(200), id='with zeros at its end'),
    pytest.param(
        lambda data: b''.join(data.splitlines(keepends=True)[: 2 * CHUNK]),
        id='after a complete block',
        marks=slow,
    ),
]


@pytest.mark.parametrize('tear', TORN)
@pytest.mark.parametrize('kind', ['one_stage'])
def test_a_torn_file_resumes_to_the_same_files(tool, kind, uninterrupted, tear):
    shutil.copytree(uninterrupted[kind], tool.out_dir)
    tool.records.write_bytes(tear(tool.records.read_bytes()))
    assert tool.finish('--resume').status == 3
    assert files_below(tool.out_dir) == files_below(uninterrupted[kind])


@pytest.mark.parametrize('kind', ['one_stage'])
def test_incomplete_files_of_a_killed_run_are_replaced(tool, kind, uninterrupted):
    shutil.copytree(uninterrupted[kind], tool.out_dir)
    tool.records.write_bytes(b''.join(tool.records.read_bytes().splitlines(keepends=True)[:20]))
    for folder in (tool.out_dir, tool.out_dir / 'vis', tool.out_dir / 'predictions'):
        (folder / '.partial-0123456789abcdef').write_bytes(b'half a file')
    tool.finish('--resume')
    assert files_below(tool.out_dir) == files_below(uninterrupted[kind])


# ------------------------------------------------------------------------------ interrupts


INTERRUPTS = [
    pytest.param(signal.SIGINT, 130, 'interrupted; complete results are saved', id='Ctrl-C'),
    pytest.param(signal.SIGTERM, 143, '', id='kill', marks=slow),
]


@pytest.mark.parametrize('kind', ['top_down'])
@pytest.mark.parametrize(('number', 'status', 'message'), INTERRUPTS)
def test_an_interrupted_run_ends_at_once_and_resumes(
    tool, kind, uninterrupted, number, status, message
):
    outcome = tool.interrupt(10, number, maximum=20)
    assert outcome.status == status
    assert 'Traceback' not in outcome.err
    assert message in outcome.err
    assert tool.records.read_bytes().endswith(b'\n')
    read_lines(tool.records)
    assert tool.finish('--resume').status == 3
    assert files_below(tool.out_dir) == files_below(uninterrupted[kind])


PLACES = [
    pytest.param('mmpose_batch.factory.load_config', id='config'),
    pytest.param('mmpose_batch.models.names.MODELS.build', id='network', marks=slow),
]


@pytest.mark.parametrize('kind', ['top_down'])
@pytest.mark.parametrize('place', PLACES)
def test_an_interrupt_while_the_model_is_built_is_one_line(tool, place):
    process = tool.start(place=place)
    process.wait_for_lines(tool.waits, 1)
    process.send(signal.SIGINT)
    outcome = process.wait()
    assert outcome.status == 130
    assert re.search(r'^batch_infer: interrupted', outcome.err, re.MULTILINE)
    assert 'Traceback' not in outcome.err


# ------------------------------------------------------------- resumed, or rejected


@pytest.fixture(scope='module')
def finished(
    models: Models, one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A folder of four photos and the output of a run over it."""
    folder = tmp_path_factory.mktemp('finished')
    write_photos(folder / 'in', 4)
    assert run_tool(folder / 'in', '--out-dir', folder / 'out', *models.one_stage).status == 0
    return folder / 'in', folder / 'out'


@pytest.fixture
def copies(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of these, which a test may change."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in finished)


def test_a_finished_run_resumes_to_itself(copies, models):
    photos, out_dir = copies
    before = files_below(out_dir)
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume')
    assert outcome.status == 0
    assert 'images    4 (4 of them by an earlier run)' in outcome.out
    assert files_below(out_dir) == before


MEASURED = ('started', 'engines', 'seconds', 'images_per_second', 'peak_resident_bytes')


def test_a_finished_run_that_is_resumed_keeps_what_it_measured(copies, models):
    photos, out_dir = copies
    info = out_dir / 'run.json'
    before = json.loads(info.read_text())
    assert before['seconds']['total'] > 0
    before |= {'started': 'yesterday', 'detections': {'detected': 3, 'added': 1, 'interpolated': 2}}
    info.write_text(json.dumps(before))
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume')
    assert outcome.status == 0
    after = json.loads(info.read_text())
    assert {key: after[key] for key in (*MEASURED, 'detections')} == {
        key: before[key] for key in (*MEASURED, 'detections')
    }
    assert after['counts'] == {**before['counts'], 'resumed': 4}


def test_a_run_that_resumes_in_the_middle_has_its_own_measurements(copies, models):
    photos, out_dir = copies
    records, info = out_dir / 'predictions.jsonl', out_dir / 'run.json'
    records.write_bytes(b'')
    info.write_text(json.dumps({**json.loads(info.read_text()), 'started': 'yesterday'}))
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume')
    assert outcome.status == 0
    assert json.loads(info.read_text())['started'] != 'yesterday'


def test_derived_files_can_be_added_by_a_resumed_run(copies, models):
    photos, out_dir = copies
    run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume', '--format', 'coco')
    persons = sum(len(record['instances']) for record in read_lines(out_dir / 'predictions.jsonl'))
    assert len(json.loads((out_dir / 'predictions.coco.json').read_text())) == persons


def test_metrics_stay_with_the_coco_file_that_they_belong_to(evaluated, tmp_path):
    """run.json and predictions.coco.json match, also after a later run with other options."""
    out_dir = shutil.copytree(evaluated.tool.out_dir, tmp_path / 'out')
    info, coco = out_dir / 'run.json', out_dir / 'predictions.coco.json'
    before, written_before = json.loads(info.read_text()), coco.read_bytes()
    model, (_, ann_file) = evaluated.arguments[:4], evaluated.arguments[-2:]
    arguments = [evaluated.photos, '--out-dir', out_dir, *model, '--format', 'json', '--resume']
    assert run_tool(*arguments).status == 0
    after = json.loads(info.read_text())
    assert [after[key] for key in ('metrics', 'evaluation')] == [
        before[key] for key in ('metrics', 'evaluation')
    ]
    assert coco.read_bytes() == written_before
    content = json.loads(Path(ann_file).read_text())
    for entry in (*content['images'], *content['annotations']):
        entry['image_id' if 'image_id' in entry else 'id'] += 100
    (tmp_path / 'other.json').write_text(json.dumps(content))
    assert run_tool(*arguments, '--ann-file', tmp_path / 'other.json').status == 0
    assert {result['image_id'] for result in json.loads(coco.read_text())} <= set(range(100, 200))
    assert run_tool(*arguments, '--format', 'json', 'coco').status == 0
    assert json.loads(info.read_text())['metrics'] == {}
    assert min(result['image_id'] for result in json.loads(coco.read_text())) < 100


OTHER = {
    'thresholds': (
        ['--bbox-thr', '0.5', '--nms-thr', '0.3'],
        'bbox_thr, nms_thr, select_thr, test_cfg',
    ),
    'batch size': (['--batch-size', '3'], 'batch_size'),
    'precision': (['--precision', 'bf16'], 'precision'),
    'config': (['--cfg-options', 'model.test_cfg.nms_pre=3'], 'config, test_cfg'),
    'weights': (['--pose2d-weights', 'none'], 'model'),
    # Images that are done would lack these files.
    'drawings': (['--save-vis'], 'drawings'),
    'json': (['--format', 'json'], 'json'),
}


@pytest.mark.parametrize(('more', 'changed'), OTHER.values(), ids=OTHER)
def test_a_run_with_other_arguments_is_not_resumed(copies, models, more, changed):
    photos, out_dir = copies
    before = files_below(out_dir)
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume', *more)
    assert outcome.status == 1
    message = f'batch_infer: cannot resume: changed since the earlier run: {changed} (results'
    assert message in outcome.err
    assert files_below(out_dir) == before


def with_one_more(photos: Path) -> None:
    shutil.copy(photos / '000000000000.jpg', photos / '000000000009.jpg')


def with_one_less(photos: Path) -> None:
    (photos / '000000000000.jpg').unlink()


def with_another_of_that_name(photos: Path) -> None:
    shutil.copy(photos / '000000000001.jpg', photos / '000000000000.jpg')


@pytest.mark.parametrize('change', [with_one_more, with_one_less, with_another_of_that_name])
def test_a_run_over_other_images_is_not_resumed(copies, models, change):
    photos, out_dir = copies
    change(photos)
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume')
    assert outcome.status == 1
    assert 'cannot resume: changed since the earlier run: inputs (' in outcome.err


@pytest.mark.parametrize('info', [None, '', '{}', '[]'], ids=['missing', 'empty', 'other', 'list'])
def test_a_run_with_a_damaged_run_json_is_not_resumed(copies, models, info):
    photos, out_dir = copies
    (out_dir / 'run.json').unlink()
    if info is not None:
        (out_dir / 'run.json').write_text(info)
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--resume')
    assert outcome.status == 1
    assert 'cannot resume: run.json, which identifies the earlier run, is missing' in outcome.err


def test_a_finished_run_is_not_overwritten_without_the_option(copies, models):
    photos, out_dir = copies
    before = files_below(out_dir)
    outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--batch-size', '3')
    assert outcome.status == 1
    assert 'already contains a run: resume it (--resume), replace it (--overwrite)' in outcome.err
    assert files_below(out_dir) == before


def test_a_run_does_not_start_in_a_folder_that_is_in_use(copies, models):
    photos, out_dir = copies
    before = files_below(out_dir)
    with locked(str(out_dir)):
        outcome = run_tool(photos, '--out-dir', out_dir, *models.one_stage, '--overwrite')
    assert outcome.status == 1
    assert f'{out_dir} is in use by another run' in outcome.err
    assert files_below(out_dir) == before


def test_a_run_with_another_detector_config_is_not_resumed(models, tmp_path):
    photos = write_photos(tmp_path / 'in', 2)
    arguments = [tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.top_down]
    assert len(photos) == 2
    assert run_tool(*arguments).status == 0
    other = tmp_path / 'other.py'
    other.write_text(
        f'_base_ = {models.file("rtmdet.py")!r}\nmodel = dict(test_cfg=dict(nms_pre=5))'
    )
    outcome = run_tool(*arguments, '--det-model', other, '--resume')
    assert outcome.status == 1
    assert 'changed since the earlier run: det_config (' in outcome.err


def test_overwriting_removes_all_files_of_the_earlier_run(models, tmp_path):
    write_photos(tmp_path / 'in', 3)
    arguments = [tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage]
    run_tool(*arguments, '--format', 'json', 'coco', '--save-vis')
    (tmp_path / 'out' / 'vis' / 'mine.jpg').write_text('')
    run_tool(*arguments, '--overwrite')
    assert sorted(files_below(tmp_path / 'out')) == [
        'failures.jsonl',
        'predictions.jsonl',
        'vis/mine.jpg',
    ]


def test_a_lost_device_ends_the_run_without_failure_records(models, tmp_path, monkeypatch):
    write_photos(tmp_path / 'in', 6)

    def lost(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError('CUDA error: unspecified launch failure')

    monkeypatch.setattr('mmpose_batch.stages.pose.PoseStage.run', lost)
    outcome = run_tool(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage)
    assert outcome.status == 1
    assert 'device error; complete results are saved, resume with --resume' in outcome.err
    assert (tmp_path / 'out' / 'predictions.jsonl').read_bytes() == b''
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'stopped'
    monkeypatch.undo()
    arguments = [tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage]
    assert run_tool(*arguments, '--resume').status == 0


def test_a_run_is_replaced_with_overwrite(copies, models):
    photos, out_dir = copies
    arguments = [photos, '--out-dir', out_dir, *models.one_stage]
    assert run_tool(*arguments, '--format', 'coco', '--resume').status == 0
    assert (out_dir / 'predictions.coco.json').exists()
    with_one_less(photos)
    outcome = run_tool(*arguments, '--overwrite')
    assert outcome.status == 0
    assert len(read_lines(out_dir / 'predictions.jsonl')) == 3
    assert not (out_dir / 'predictions.coco.json').exists()


def test_a_run_killed_as_it_begins_to_replace_another_leaves_no_mixture(
    copies, models, monkeypatch
):
    photos, out_dir = copies
    arguments = [photos, '--out-dir', out_dir, *models.one_stage, '--batch-size', '3']
    write = RunInfo.write

    def then_killed(*arguments: Any, **settings: Any) -> None:
        write(*arguments, **settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunInfo, 'write', then_killed)
        assert run_tool(*arguments, '--overwrite').status == 130
    outcome = run_tool(*arguments, '--resume')
    assert outcome.status == 0
    assert 'by an earlier run' not in outcome.out


def test_resume_in_an_empty_folder_starts_a_run(photos, models, tmp_path):
    outcome = run_tool(
        *(photos / '000000000000.jpg', '--out-dir', tmp_path / 'out'),
        *(*models.one_stage, '--resume'),
    )
    assert outcome.status == 0


# ------------------------------------------------------------ full and read-only disks


class Disk:
    """A small file system for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def change(self, option: str) -> None:
        subprocess.run(['mount', '-o', f'remount,{option}', self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', 'tmpfs', folder]
    if shutil.which('mount') is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('needs the right to mount a file system')
    yield Disk(folder)
    subprocess.run(['umount', '--lazy', folder], check=True)


@pytest.mark.parametrize(
    'size', ['24k', pytest.param('100k', marks=slow), pytest.param('400k', marks=slow)]
)
@pytest.mark.parametrize('kind', ['one_stage'])
def test_a_full_disk_is_one_line_and_the_run_resumes_when_there_is_room(
    photos, models, disk, tmp_path, uninterrupted, kind, size
):
    disk.change(f'size={size}')
    tool = Tool(photos, tmp_path, [*models.one_stage, *FORMATS])
    tool.out_dir.symlink_to(disk.folder)
    outcome = tool.finish()
    assert outcome.status == 1
    message = f'batch_infer: cannot write below {tool.out_dir}: No space left on device'
    assert message in outcome.err.splitlines()
    assert 'Traceback' not in outcome.err
    assert not [name for name in files_below(disk.folder) if '.partial' in name]
    disk.change('size=10m')
    assert tool.finish('--resume').status == 3
    assert files_below(disk.folder) == files_below(uninterrupted[kind])


@pytest.mark.parametrize('name', ['predictions.jsonl', 'failures.jsonl'])
def test_a_full_device_is_one_line(photos, models, tmp_path, name):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).symlink_to('/dev/full')
    outcome = run_tool(photos, '--out-dir', tmp_path / 'out', *models.one_stage)
    assert outcome.status == 1
    message = f'batch_infer: cannot write below {tmp_path}/out: No space left on device'
    assert outcome.err.splitlines()[-1] == message


def test_a_read_only_disk_is_one_line(photos, models, disk):
    disk.change('ro')
    outcome = run_tool(photos, '--out-dir', disk.folder / 'out', *models.one_stage)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].endswith('/out: Read-only file system')


def test_a_disk_that_becomes_read_only_is_one_line(photos, models, disk):
    arguments = [photos / '000000000000.jpg', '--out-dir', disk.folder, *models.one_stage]
    assert run_tool(*arguments).status == 0
    disk.change('ro')
    outcome = run_tool(*arguments, '--overwrite')
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].endswith(': Read-only file system')
    assert len(read_lines(disk.folder / 'predictions.jsonl')) == 1


IN_THE_WAY: dict[str, tuple[str, Callable[[Path], object], str]] = {
    'a file': (
        'out',
        lambda path: path.write_text(''),
        'cannot write below {out}: it is not a folder',
    ),
    'a file above it': (
        'out/deeper',
        lambda path: path.parent.write_text(''),
        'cannot write below {out}: Not a directory',
    ),
    'a folder in place of records': (
        'out',
        lambda path: (path / 'predictions.jsonl').mkdir(parents=True),
        '{out}/predictions.jsonl: expected a file, found a folder: move it away',
    ),
    'a file in place of drawings': (
        'out',
        lambda path: (path.mkdir(), (path / 'vis').write_text('')),
        '{out}/vis: expected a folder, found a file: move it away',
    ),
}


@pytest.mark.parametrize(('name', 'make', 'reason'), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_wrong_file_or_folder_at_an_output_path_is_one_line(
    photos, models, tmp_path, name, make, reason
):
    make(tmp_path / name)
    outcome = run_tool(photos, '--out-dir', tmp_path / name, *models.one_stage, '--save-vis')
    assert outcome.status == 1
    message = f'batch_infer: {reason}'.replace('{out}', str(tmp_path / name))
    assert outcome.err.splitlines() == [message]  # before the model is built


def test_a_folder_that_cannot_be_made_is_one_line(photos, models):
    outcome = run_tool(photos, '--out-dir', '/proc/out', *models.one_stage)
    assert outcome.status == 1
    assert 'batch_infer: cannot write below /proc/out: ' in outcome.err


# ----------------------------------------------------------- one image that cannot be written


def test_only_an_image_that_cannot_be_drawn_fails(models, tmp_path):
    photos = write_photos(tmp_path / 'in', 2)
    # OpenCV can read it, but a JPEG cannot be that long.
    (tmp_path / 'in' / 'long.jpg').write_bytes(b'P5 70000 4 255 ' + bytes(280_000))
    outcome = run_tool(
        *(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage),
        *('--save-vis', '--format', 'json'),
    )
    assert outcome.status == 3
    *done, failed = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert [record['image'] for record in done] == [photo.name for photo in photos]
    assert failed['image'] == 'long.jpg'
    assert failed['error'].startswith('cannot be written: ')
    assert {
        'width',
        'height',
        'instances',
    } <= failed.keys()  # the prediction is there without the drawing
    assert (tmp_path / 'out' / 'predictions' / 'long.jpg.json').exists()
    failure = {key: failed[key] for key in ('image', 'error')}
    assert read_lines(tmp_path / 'out' / 'failures.jsonl') == [failure]


def test_only_an_image_with_too_long_a_name_fails(models, tmp_path):
    photos = write_photos(tmp_path / 'in', 2)
    long = photos[0].with_name('n' * 251 + '.jpg')  # and `.json` makes 260
    photos[0].rename(long)
    outcome = run_tool(
        *(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage), *('--format', 'json')
    )
    assert outcome.status == 3
    done, failed = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert failed['image'] == long.name
    assert 'cannot be written: ' in failed['error']
    assert 'name too long' in failed['error']
    assert 'instances' in done


# ------------------------------------------------------------------- the four photos, for real


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_on_real_photos_a_killed_run_resumes_to_the_same_bytes(shared, tmp_path, monkeypatch, kind):
    arguments = [*real_models(shared)[kind], '--save-vis', '--format', 'json', 'coco']
    arguments += ['--ann-file', str(shared / 'images' / 'person_keypoints.json')]
    complete, killed = (
        Tool(shared / 'images', tmp_path / name, arguments) for name in ('complete', 'killed')
    )
    monkeypatch.setattr('mmpose_batch.sources.items.CHUNK', 2)
    assert complete.finish().status == 0
    assert killed.interrupt(2, signal.SIGKILL, block=2, maximum=3).status == -signal.SIGKILL
    assert count_lines(killed.records) < 4
    assert killed.finish('--resume').status == 0
    assert killed.records.read_bytes() == complete.records.read_bytes()
    assert files_below(killed.out_dir) == files_below(complete.out_dir)
    assert len(list((killed.out_dir / 'vis').iterdir())) == 4
    metrics = [
        json.loads((tool.out_dir / 'run.json').read_text())['metrics']
        for tool in (complete, killed)
    ]
    assert metrics[0] == metrics[1]
    assert metrics[0]['AP'] > 0


def test_two_images_never_share_a_drawing(models, tmp_path):
    for name in ('a.gif', 'a.gif.png'):
        Image.fromarray(picture(40, 30)).save(tmp_path / name)
    arguments = (tmp_path, '--out-dir', tmp_path / 'out', *models.one_stage)
    outcome = run_tool(*arguments, '--save-vis')
    assert outcome.status == 1
    assert 'a.gif.png and a.gif would be drawn into one file' in outcome.err
    assert run_tool(*arguments).status == 0


def test_an_engine_that_is_selected_late_is_stored_before_its_first_record(
    one_stage, photos, tmp_path, monkeypatch
):
    """Otherwise a run that resumes after a kill could select another precision."""
    inferencer = one_stage.ours(engine='openvino', self_check=False)
    options = RunOptions(out_dir=str(tmp_path / 'out'), quiet=True)
    stored = []
    append = JsonLinesFile.append

    def look(writer: JsonLinesFile, record: dict[str, Any]) -> None:
        stored.append(json.loads((tmp_path / 'out' / 'run.json').read_text())['settled']['engines'])
        append(writer, record)

    monkeypatch.setattr('mmpose_batch.writers.jsonl.JsonLinesFile.append', look)
    paths = sorted(map(str, photos.iterdir()))[:3]
    Run(inferencer, Items(paths), inferencer.call_options(), options)()
    assert stored and all(engines['pose'] == 'openvino' for engines in stored)
