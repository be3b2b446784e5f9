"""Two third-party formats, which only the registry knows, in real runs.

One is a file that grows, as CSV; the other has a complete file per chunk, as Parquet would.
"""

import csv
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from support.factories import (
    Models,
    ToolProcess,
    files_below,
    read_lines,
    run_tool,
    write_photos,
)

import mmpose_batch.runs.run
from mmpose_batch import BatchPose2DInferencer, InputError, build_inferencer
from mmpose_batch.errors import OutputError, RunError
from mmpose_batch.results import ImageResult
from mmpose_batch.runs.dry_run import describe_outputs
from mmpose_batch.runs.run import Run
from mmpose_batch.sources.items import Items
from mmpose_batch.writers import registry
from mmpose_batch.writers.atomic import open_atomically
from mmpose_batch.writers.base import FinishedRun, Record, ResumePoint, Writer, WriterSpec
from mmpose_batch.writers.options import RunOptions

pytestmark = pytest.mark.usefixtures('one_thread')

CHUNK, COUNT = 4, 10  # by default, a chunk has 256 images
FORMATS = ('json', 'csv', 'chunks', 'coco')
UNWRITABLE = 'unwritable.jpg'
EVERYTHING = RunOptions(out_dir='out', save_vis=True)


class CsvWriter(Writer):
    """Writes one row per person to a file, which is written again when a run is resumed."""

    def open(self, folder: str, resume: ResumePoint) -> None:
        self._file = open(Path(folder) / 'persons.csv', 'w', newline='')  # noqa: SIM115
        self._rows = csv.writer(self._file)
        self._rows.writerow(['image', 'score'])
        for record in resume.records():
            if record['image'] != UNWRITABLE:
                self._write(record)

    def append(self, result: ImageResult, record: Record) -> None:
        if record['image'] == UNWRITABLE:
            raise ValueError('expected a name that CSV has, found another')
        self._write(record)

    def _write(self, record: Record) -> None:
        for instance in record.get('instances', ()):
            self._rows.writerow([record['image'], instance['bbox_score']])

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ChunkWriter(Writer):
    """Writes one file per chunk."""

    def open(self, folder: str, resume: ResumePoint) -> None:
        self._folder = Path(folder) / 'chunks'
        self._number = -(-resume.images // CHUNK)  # the last chunk may be shorter
        self._images: list[list[Any]] = []
        for path in self._folder.glob('*.chunk'):
            if int(path.stem) >= self._number:
                path.unlink()

    def append(self, result: ImageResult, record: Record) -> None:
        self._images.append([record['image'], len(record.get('instances', ()))])

    def sync(self) -> None:
        if self._images:
            with open_atomically(str(self._folder / f'{self._number:06}.chunk')) as file:
                file.write(orjson.dumps(self._images))
            self._number += 1
            self._images = []


def chunk_paths(names: Iterable[str]) -> Iterator[str]:
    for index, _ in enumerate(names):
        if index % CHUNK == 0:
            yield f'chunks/{index // CHUNK:06}.chunk'


CSV = WriterSpec(
    name='csv',
    help='one row per person',
    build=lambda context: CsvWriter(),
    files=('persons.csv',),
)
CHUNKS = WriterSpec(
    name='chunks',
    help='one file per chunk',
    build=lambda context: ChunkWriter(),
    folder='chunks',
    paths=chunk_paths,
)


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the formats, for these tests only."""
    registry.specs()
    monkeypatch.setattr(registry, 'WRITERS', dict(registry.WRITERS))
    for spec in (CSV, CHUNKS):
        registry.register(spec)


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Images of three sizes, a file that is not an image, and a name that CSV does not allow."""
    folder = tmp_path_factory.mktemp('photos')
    paths = write_photos(folder, COUNT)
    paths[1].write_bytes(b'no image')
    paths[6] = paths[6].rename(folder / UNWRITABLE)
    return list(map(str, paths))


def build(models: Models) -> BatchPose2DInferencer:
    return build_inferencer(
        models.file('rtmo.py'), models.file('rtmo.pth'), device='cpu', num_workers=2
    )


@pytest.fixture(scope='module')
def inferencer(models: Models, one_thread: None) -> BatchPose2DInferencer:
    return build(models)


def make_run(
    inferencer: BatchPose2DInferencer,
    photos: list[str],
    out_dir: Path,
    formats: tuple[str, ...] = FORMATS,
    **options: Any,
) -> Run:
    chosen = RunOptions(out_dir=str(out_dir), formats=formats, quiet=True, **options)
    return Run(inferencer, Items(photos), inferencer.call_options(bbox_thr=0.1), chosen)


@pytest.fixture(scope='module')
def complete(
    inferencer: BatchPose2DInferencer,
    photos: list[str],
    small_chunks: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output of an uninterrupted run in all formats."""
    folder = tmp_path_factory.mktemp('complete')
    with pytest.MonkeyPatch.context() as patch:
        registry.specs()
        patch.setattr(registry, 'WRITERS', {**registry.WRITERS, 'csv': CSV, 'chunks': CHUNKS})
        make_run(inferencer, photos, folder)()
    return folder


# ------------------------------------------------------------------------------ contents


def test_every_format_has_all_images_in_order(complete):
    records = read_lines(complete / 'predictions.jsonl')
    with open(complete / 'persons.csv', newline='') as file:
        (_, *rows) = csv.reader(file)
    written = [record for record in records if record['image'] != UNWRITABLE]
    assert [row[0] for row in rows] == [
        record['image'] for record in written for _ in record.get('instances', ())
    ]
    assert len(rows) > COUNT
    chunks = [orjson.loads(path.read_bytes()) for path in sorted(complete.glob('chunks/*'))]
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert [image for chunk in chunks for image in chunk] == [
        [record['image'], len(record.get('instances', ()))] for record in records
    ]
    assert orjson.loads((complete / 'predictions.coco.json').read_bytes())


def test_if_one_format_fails_for_an_image_the_others_still_write_it(complete):
    records = {record['image']: record for record in read_lines(complete / 'predictions.jsonl')}
    failed = records[UNWRITABLE]
    assert failed['error'] == 'cannot be written: expected a name that CSV has, found another'
    assert {'width', 'height', 'instances'} <= failed.keys()
    assert (complete / 'predictions' / f'{UNWRITABLE}.json').exists()
    failures = read_lines(complete / 'failures.jsonl')
    assert [failure['image'] for failure in failures] == ['000000000001.jpg', UNWRITABLE]
    assert failures[1] == {'image': UNWRITABLE, 'error': failed['error']}


def test_the_error_of_a_format_follows_that_of_the_image(
    inferencer, photos, complete, tmp_path, monkeypatch
):
    def reject(writer: Writer, result: ImageResult, record: Record) -> None:
        if result.error is not None:
            raise ValueError('no failures, please')

    monkeypatch.setattr(CsvWriter, 'append', reject)
    make_run(inferencer, photos[:3], tmp_path, ('csv',))()
    _, before = read_lines(complete / 'predictions.jsonl')[:2]
    _, failed, other = read_lines(tmp_path / 'predictions.jsonl')
    assert failed['error'] == f'{before["error"]}; cannot be written: no failures, please'
    assert read_lines(tmp_path / 'failures.jsonl') == [failed]
    assert 'error' not in other


def test_a_format_that_changes_the_record_changes_no_other_file(
    inferencer, photos, complete, tmp_path, monkeypatch
):
    append = CsvWriter.append

    def change(writer: CsvWriter, result: ImageResult, record: Any) -> None:
        try:
            append(writer, result, record)
        finally:
            for instance in record.get('instances', ()):
                instance['keypoints'][0].clear()
            record['instances'] = []
            record['error'] = 'made up'

    monkeypatch.setattr(CsvWriter, 'append', change)
    make_run(inferencer, photos, tmp_path)()
    assert files_below(tmp_path) == files_below(complete)


def test_the_first_failure_ends_the_run_if_inputs_raise(inferencer, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(inferencer, 'options', replace(inferencer.options, on_error='raise'))
    with pytest.raises(InputError, match=f'{UNWRITABLE}: cannot be written: expected a name'):
        make_run(inferencer, photos[2:], tmp_path)()


def test_a_disk_that_fails_ends_the_run(inferencer, photos, tmp_path, monkeypatch):
    def full(writer: Writer) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(ChunkWriter, 'sync', full)
    with pytest.raises(RunError, match=r'cannot write below .*: No space left on device'):
        make_run(inferencer, photos, tmp_path)()
    # The last image of the chunk is not marked as done.
    assert len(read_lines(tmp_path / 'predictions.jsonl')) == CHUNK - 1


def test_derived_formats_receive_all_results(inferencer, photos, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(CsvWriter, 'finish', lambda writer, run: given.append(run))
    make_run(inferencer, photos[:3], tmp_path / 'plain', ('csv',))()
    make_run(inferencer, photos[:3], tmp_path / 'scored', ('csv', 'coco'))()
    plain, scored = given
    assert list(plain.records()) == read_lines(tmp_path / 'plain' / 'predictions.jsonl')
    assert plain.scored is None
    coco = orjson.loads((tmp_path / 'scored' / 'predictions.coco.json').read_bytes())
    assert [dict(result) for result in scored.scored()] == coco


def test_a_dry_run_lists_the_files(photos, tmp_path):
    options = RunOptions(out_dir=str(tmp_path), formats=FORMATS, save_vis=True)
    assert describe_outputs(Items(photos), options) == (
        'writes    predictions.jsonl, failures.jsonl, run.json, persons.csv, '
        'predictions.coco.json, predictions/ (10 files), vis/ (10 drawings), chunks/ (3 files) '
        f'below {tmp_path}'
    )


# --------------------------------------------------------------- killed, and resumed or replaced


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingCsvWriter(CsvWriter):
    """Kills its process in the middle of one of its calls."""

    def __init__(self, moment: str, count: int) -> None:
        self._moment = moment
        self._count = count

    def _call(self, name: str) -> None:
        if name == self._moment:
            self._count -= 1
            if self._count == 0:
                die()

    def open(self, folder: str, resume: ResumePoint) -> None:
        super().open(folder, resume)
        self._file.flush()
        self._call('open')

    def append(self, result: ImageResult, record: Record) -> None:
        self._call('before append')
        super().append(result, record)
        self._file.write('half a row')
        self._file.flush()
        self._call('append')
        self._file.seek(self._file.tell() - len('half a row'))
        self._file.truncate()

    def sync(self) -> None:
        super().sync()
        self._call('sync')

    def finish(self, run: FinishedRun) -> None:
        self._call('finish')


def run_and_die(moment: str, count: int, arguments: list[str], log: str, chunk: int) -> None:
    """A run in a separate process, which has to be killed."""
    torch.set_num_threads(1)
    mmpose_batch.sources.items.CHUNK = chunk
    registry.register(replace(CSV, build=lambda context: DyingCsvWriter(moment, count)))
    registry.register(CHUNKS)
    models, out_dir, *photos = arguments
    with open(log, 'w') as file, redirect_stdout(file), redirect_stderr(file):
        make_run(build(Models(Path(models))), photos, Path(out_dir), resume=True)()


MOMENTS = [
    # Function, number of the call, and number of images that are not repeated.
    pytest.param('append', 6, 4, id='in the middle of an image'),
    pytest.param('sync', 2, 4, id='before other formats are safe'),
    pytest.param('before append', 9, 8, id='after a chunk', marks=pytest.mark.slow),
    pytest.param('finish', 1, 10, id='at the end', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('moment', 'count', 'kept'), MOMENTS)
def test_a_killed_run_resumes_to_the_same_bytes(
    inferencer, models, photos, complete, tmp_path, moment, count, kept
):
    out_dir = tmp_path / 'out'
    arguments = [models.folder, out_dir, *photos]
    main = partial(run_and_die, moment, count)
    outcome = ToolProcess(arguments, tmp_path / 'log', CHUNK, main).wait()
    assert outcome.status == -signal.SIGKILL
    summary = make_run(inferencer, photos, out_dir, resume=True)()
    assert (summary.images, summary.resumed) == (COUNT, kept)
    assert files_below(out_dir) == files_below(complete)


def stop_at(monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    """Interrupt the run at an image."""
    append = ChunkWriter.append

    def append_or_stop(writer: ChunkWriter, result: ImageResult, record: Record) -> None:
        if record['image'] == image:
            raise KeyboardInterrupt
        append(writer, result, record)

    monkeypatch.setattr(ChunkWriter, 'append', append_or_stop)


def test_a_run_killed_as_it_resumes_resumes_to_the_same_bytes(
    inferencer, models, photos, complete, tmp_path, monkeypatch
):
    out_dir = tmp_path / 'out'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, '000000000005.jpg')
        make_run(inferencer, photos, out_dir)()
    assert len(read_lines(out_dir / 'predictions.jsonl')) == 5  # no finished image is lost
    arguments = [models.folder, out_dir, *photos]
    outcome = ToolProcess(
        arguments, tmp_path / 'log', CHUNK, partial(run_and_die, 'open', 1)
    ).wait()
    assert outcome.status == -signal.SIGKILL
    assert make_run(inferencer, photos, out_dir, resume=True)().resumed == CHUNK
    assert files_below(out_dir) == files_below(complete)


def test_a_complete_run_resumes_to_itself(inferencer, photos, tmp_path):
    make_run(inferencer, photos[:3], tmp_path)()
    before = files_below(tmp_path)
    assert make_run(inferencer, photos[:3], tmp_path, resume=True)().resumed == 3
    assert files_below(tmp_path) == before


def test_a_run_that_lacks_a_format_is_not_resumed_with_it(inferencer, photos, tmp_path):
    make_run(inferencer, photos[:2], tmp_path, ('csv',))()
    with pytest.raises(RunError, match='changed since the earlier run: chunks, csv '):
        make_run(inferencer, photos[:2], tmp_path, ('chunks',), resume=True)()


def test_a_run_resumes_whether_a_format_that_it_does_not_write_is_registered(
    inferencer, photos, tmp_path, monkeypatch
):
    monkeypatch.delitem(registry.WRITERS, 'csv')
    make_run(inferencer, photos[:2], tmp_path, ())()
    registry.register(CSV)
    assert make_run(inferencer, photos[:2], tmp_path, (), resume=True)().resumed == 2


def test_no_format_can_have_a_key_of_the_rest_of_the_identity(inferencer, photos, tmp_path):
    make_run(inferencer, photos[:1], tmp_path, ())()
    identity = orjson.loads((tmp_path / 'run.json').read_bytes())['identity']
    of_formats = {key for spec in registry.specs().values() for key in spec.identity(EVERYTHING)}
    assert of_formats == {'json', 'drawings', 'parquet', 'csv', 'chunks'}
    optional = {'videos'}
    assert identity.keys() - of_formats == registry.IDENTITY_KEYS - optional


def test_a_run_that_is_replaced_leaves_no_file(inferencer, photos, tmp_path):
    make_run(inferencer, photos, tmp_path)()
    make_run(inferencer, photos[:1], tmp_path, (), overwrite=True)()
    assert sorted(files_below(tmp_path)) == ['failures.jsonl', 'predictions.jsonl']


# ----------------------------------------------------------------- files that no run wrote


THIRD_PARTY = ['persons.csv', 'chunks/000000.chunk']


@pytest.mark.parametrize('name', THIRD_PARTY)
def test_a_file_that_no_run_wrote_is_not_replaced(inferencer, photos, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('mine')
    with pytest.raises(RunError, match=f'{name} would be replaced, and no run.json shows'):
        make_run(inferencer, photos[:1], tmp_path)()
    make_run(inferencer, photos[:1], tmp_path, ())()
    # Nor by a run that replaces one without the format.
    with pytest.raises(RunError, match=f'{name} would be replaced'):
        make_run(inferencer, photos[:1], tmp_path, overwrite=True)()
    make_run(inferencer, photos[:1], tmp_path, (), overwrite=True)()
    assert path.read_text() == 'mine'


def test_coco_results_of_a_user_in_the_folder_of_a_run_are_not_replaced(
    inferencer, photos, tmp_path
):
    make_run(inferencer, photos[:1], tmp_path, ())()
    path = tmp_path / 'predictions.coco.json'
    path.write_text('mine')
    make_run(inferencer, photos[:1], tmp_path, (), resume=True)()
    for options in ({'overwrite': True}, {'formats': ('coco',), 'resume': True}):
        with pytest.raises(
            RunError, match=r'predictions\.coco\.json would be replaced, and no run'
        ):
            make_run(inferencer, photos[:1], tmp_path, **{'formats': (), **options})()
    assert path.read_text() == 'mine'


def test_coco_results_that_a_resumed_run_added_are_replaced(inferencer, photos, tmp_path):
    for formats in ((), ('coco',), ()):  # the last run still knows them
        make_run(inferencer, photos[:1], tmp_path, formats, resume=True)()
    assert (tmp_path / 'predictions.coco.json').exists()
    make_run(inferencer, photos[:1], tmp_path, (), overwrite=True)()
    assert not (tmp_path / 'predictions.coco.json').exists()


def test_the_error_names_the_folder_at_the_path_of_a_file(inferencer, photos, tmp_path):
    (tmp_path / 'persons.csv').mkdir()
    with pytest.raises(RunError, match=r'persons\.csv: expected a file, found a folder'):
        make_run(inferencer, photos[:1], tmp_path)()
    (tmp_path / 'persons.csv').rmdir()
    (tmp_path / 'chunks').touch()
    with pytest.raises(RunError, match='chunks: expected a folder, found a file'):
        make_run(inferencer, photos[:1], tmp_path)()


def test_images_that_would_share_a_file_are_rejected(inferencer, photos, tmp_path, monkeypatch):
    def reject(names: Any) -> None:
        raise OutputError(f'{names[0]} and {names[1]} would share a file')

    monkeypatch.setitem(registry.WRITERS, 'csv', replace(CSV, check_names=reject))
    with pytest.raises(RunError, match=r'000\.jpg and 0.*001\.jpg would share a file'):
        make_run(inferencer, photos, tmp_path)()


MODULE = """
from mmpose_batch.writers.base import Writer, WriterSpec
from mmpose_batch.writers.registry import register


class NamesWriter(Writer):
    def open(self, folder, resume):
        self._file = open(f'{folder}/names.txt', 'w')

    def append(self, result, record):
        self._file.write(record['image'] + '\\n')

    def sync(self):
        self._file.flush()

    def close(self):
        self._file.close()


register(
    WriterSpec(
        name='names', help='names', build=lambda context: NamesWriter(), files=('names.txt',)
    )
)
"""


def test_the_tool_writes_a_format_that_a_config_imports(models, tmp_path, monkeypatch):
    (tmp_path / 'names_format.py').write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'pose.py'
    imports = "custom_imports = dict(imports=['names_format'])\n"
    config.write_text(Path(models.file('rtmo.py')).read_text() + imports)
    write_photos(tmp_path / 'in', 2)
    arguments = (tmp_path / 'in', '--out-dir', tmp_path / 'out', '--format', 'names')
    weights = ('--pose2d-weights', models.file('rtmo.pth'))
    outcome = run_tool(*arguments, '--pose2d', config, *weights)
    assert outcome.status == 0, outcome.err
    names = sorted(path.name for path in (tmp_path / 'in').iterdir())
    assert (tmp_path / 'out' / 'names.txt').read_text().split() == names
    monkeypatch.delitem(sys.modules, 'names_format')
