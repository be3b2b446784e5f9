"""Parquet tables: equal to the records in every reader, complete after a kill, own files only."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import duckdb
import fsspec
import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from support.factories import (
    Models,
    ToolProcess,
    files_below,
    main_of_process,
    read_lines,
    run_tool,
    write_photos,
)
from support.tiny import save
from support.videos import painted, write_video

from mmpose_batch.models.keypoints import Keypoints
from mmpose_batch.scenes import ClipOptions, write_scenes, write_videos
from mmpose_batch.sources.base import Frame
from mmpose_batch.writers import atomic
from mmpose_batch.writers.base import ResumePoint, WriterContext
from mmpose_batch.writers.options import RunOptions
from mmpose_batch.writers.parquet import ParquetWriter
from mmpose_batch.writers.parquet_tables import ModelInfo, Tables, tables_of, write_table

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')

CHUNK = 4
TABLES = Tables._fields
DOCUMENT = Path(__file__).parents[2] / 'docs' / 'guides' / 'tables.md'
CHUNKS = ('0000000', '0000001', 'v00000-00000', 'v00000-00001', 'v00000-00002')
FILES = {f'parquet/{table}/part-{chunk}.parquet' for table in TABLES for chunk in CHUNKS}

Rows = list[dict[str, Any]]


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, an image without persons, one that is none, and a video of ten frames."""
    folder = tmp_path_factory.mktemp('inputs')
    write_scenes(folder, 3, seed=3, quiet=True)
    (folder / 'annotations.json').unlink()
    save(folder / 'empty.png', np.full((96, 128, 3), 90, np.uint8))
    (folder / 'none.jpg').write_bytes(b'no image')
    write_videos(folder, 1, seed=3, options=ClipOptions(seconds=1, fps=10), quiet=True)
    return folder


@pytest.fixture(scope='module')
def arguments(inputs: Path) -> list[str]:
    """A run of the demo model, which finds the persons of scenes."""
    return [str(inputs), '--track', '--format', 'parquet']


@pytest.fixture(scope='module')
def complete(
    arguments: list[str],
    small_chunks: None,
    one_thread: None,
    shared_inferencers: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output of a run that was not interrupted."""
    out_dir = tmp_path_factory.mktemp('complete') / 'out'
    assert run_tool(*arguments, '--out-dir', out_dir).status == 3
    return out_dir


# ------------------------------------------------------------------------------- readers


def by_pyarrow(folder: Path) -> Rows:
    return pq.read_table(folder).to_pylist()


def by_pandas(folder: Path) -> Rows:
    frame = pd.read_parquet(folder, dtype_backend='pyarrow')
    rows = frame.astype(object).to_dict('records')
    return [{k: None if v is pd.NA else v for k, v in row.items()} for row in rows]


def by_polars(folder: Path) -> Rows:
    return pl.read_parquet(folder / '*.parquet').to_dicts()


def by_duckdb(folder: Path) -> Rows:
    found = duckdb.sql(f"SELECT * FROM '{folder}/*.parquet' ORDER BY filename, file_row_number")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


READERS = [by_pyarrow, by_pandas, by_polars, by_duckdb]
each_reader = pytest.mark.parametrize('read', READERS, ids=lambda read: read.__name__)


def poses_of(records: Rows) -> Rows:
    """Expected rows of the table of persons."""
    return [
        {
            **heading_of(record),
            'person': number,
            **{key: instance.get(key) for key in ('track_id', 'category_id', 'bbox', 'bbox_score')},
            'keypoints': np.ravel(instance['keypoints']).tolist(),
            'keypoint_scores': instance['keypoint_scores'],
        }
        for record in records
        for number, instance in enumerate(record.get('instances', ()))
    ]


def images_of(records: Rows) -> Rows:
    """Expected rows of the table of images."""
    return [
        {
            **heading_of(record),
            'time_guessed': 'time_guessed' in record if 'frame' in record else None,
            'width': record.get('width'),
            'height': record.get('height'),
            'persons': len(record['instances']) if 'instances' in record else None,
            'error': record.get('error'),
        }
        for record in records
    ]


def heading_of(record: dict) -> dict[str, Any]:
    source = record.get('video', record.get('image'))
    return {'source': source, 'frame': record.get('frame'), 'time': record.get('time')}


def rounded(rows: Rows) -> Rows:
    """Rows with numbers rounded as in records: float32 has seven digits."""
    digits = {'keypoints': 3, 'bbox': 3, 'keypoint_scores': 5, 'bbox_score': 5}
    return [
        {
            key: np.round(np.asarray(value, np.float64), digits[key]).tolist()
            if key in digits and value is not None
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


@each_reader
def test_the_tables_equal_the_records(complete, read):
    records = read_lines(complete / 'predictions.jsonl')
    assert rounded(read(complete / 'parquet' / 'poses')) == poses_of(records)
    assert read(complete / 'parquet' / 'images') == images_of(records)


def test_the_run_has_all_kinds_of_rows(complete):
    images = by_pyarrow(complete / 'parquet' / 'images')
    assert [row['persons'] for row in images if row['source'] == 'empty.png'] == [0]
    assert [row['persons'] for row in images if row['error'] is not None] == [None]
    assert sum(row['frame'] is not None for row in images) == 10
    poses = by_pyarrow(complete / 'parquet' / 'poses')
    assert {row['track_id'] is None for row in poses if row['frame'] is not None} == {True, False}
    assert {row['track_id'] for row in poses if row['frame'] is None} == {None}
    assert files_below(complete).keys() - {'predictions.jsonl', 'failures.jsonl'} == FILES


# ------------------------------------------------------------------------------- tables

MODEL = ModelInfo(keypoints=('a', 'b'), skeleton=((0, 1),), sigmas=(0.1, 0.2))
BARE = {'keypoints': [[1.5, 2.25], [-3.125, 1234.567]], 'keypoint_scores': [0.12345, 0.5]}
BOXED = {**BARE, 'bbox': [1.0, 2.0, 3.0, 4.5], 'bbox_score': 0.98765}
SIZE = {'width': 640, 'height': 480}
FRAME = {'video': 'b/c.mp4', 'frame': 3, 'time': 0.125}
RECORDS = {
    'none': [],
    'without boxes': [{'image': 'a.jpg', **SIZE, 'instances': [BARE, BARE]}],
    'with some boxes': [{'image': 'a.jpg', **SIZE, 'instances': [BARE, BOXED, BARE]}],
    'without persons': [{'image': 'a.jpg', **SIZE, 'instances': []}],
    'only failures': [
        {'image': 'a.jpg', 'error': 'expected an image'},
        {'video': 'b/none.mp4', 'error': 'expected a video'},
        {**FRAME, 'error': 'the video is damaged'},
    ],
    'categories': [
        {'image': 'ä.jpg', **SIZE, 'instances': [{**BOXED, 'category_id': c} for c in (None, 7)]}
    ],
    'a file that cannot be written': [
        {'image': 'a.jpg', **SIZE, 'instances': [BOXED], 'error': 'cannot be written: full'}
    ],
    'guessed and missing times': [
        {**FRAME, 'time_guessed': True, **SIZE, 'instances': [{**BOXED, 'track_id': 5}]},
        {**FRAME, 'frame': 4, 'time': None, **SIZE, 'instances': [{**BOXED, 'track_id': None}]},
    ],
}
# An earlier chunk, so that the readers have to combine files with and without values.
BEFORE = [{'image': '0.jpg', **SIZE, 'instances': [{**BOXED, 'track_id': 1, 'category_id': 2}]}]


@each_reader
@pytest.mark.parametrize('records', RECORDS.values(), ids=RECORDS)
def test_records_of_every_kind_are_read_back(tmp_path, records, read):
    for number, chunk in enumerate((BEFORE, records)):
        for name, table in tables_of(chunk, MODEL)._asdict().items():
            write_table(table, str(tmp_path / name / f'part-{number:07}.parquet'))
    everything = [*BEFORE, *records]
    assert rounded(read(tmp_path / 'poses')) == poses_of(everything)
    assert read(tmp_path / 'images') == images_of(everything)


def test_all_tables_of_a_model_have_the_same_schema():
    tables = [tables_of(records, MODEL) for records in RECORDS.values()]
    for name in TABLES:
        first, *others = (getattr(each, name).schema for each in tables)
        assert all(other.equals(first, check_metadata=True) for other in others)


def test_keypoints_need_no_copy(complete):
    for path in complete.glob('parquet/poses/*.parquet'):
        column = pq.read_table(path)['keypoints']
        assert column.type == pa.list_(pa.float32(), 34)
        (part,) = column.chunks
        values = part.flatten()
        if not len(part):
            continue  # no memory, no address
        array = values.to_numpy(zero_copy_only=True).reshape(len(part), 17, 2)
        assert array.ctypes.data == values.buffers()[1].address + values.offset * 4


def test_instances_with_another_number_of_keypoints_are_rejected():
    with pytest.raises(ValueError, match=r'keypoints: expected the shape \(3, 2\), found \(2, 2\)'):
        tables_of(BEFORE, ModelInfo(keypoints=('a', 'b', 'c')))


# ------------------------------------------------------------------------------- metadata


def test_every_file_describes_the_model(complete):
    for path in complete.glob('parquet/*/*.parquet'):
        model = orjson.loads(pq.read_schema(path).metadata[b'mmpose_batch'])
        assert model['keypoints'][:3] == ['nose', 'left_eye', 'right_eye']
        assert len(model['keypoints']) == len(model['sigmas']) == 17
        assert model['sigmas'][:2] == [0.026, 0.025]
        assert [15, 13] in model['skeleton']
        assert model['dataset'] == 'coco'
        assert (model['config'], model['weights']) == ('demo-rtmo.py', 'demo-rtmo.pth')
        assert re.fullmatch(r'\d+\.\d+\.\d+.*', model['version'])


def inferencer_with(meta: dict, indices: list[int] | None, **arguments: Any) -> Any:
    """A stand-in with everything that the description of a model is made of."""
    pose = SimpleNamespace(keypoints=Keypoints({'num_keypoints': 3, **meta}, indices))
    predictor = SimpleNamespace(pose=pose)
    return SimpleNamespace(predictor=predictor, arguments=arguments, cfg={})


def test_the_description_has_only_the_keypoints_that_the_model_outputs():
    meta = {
        'keypoint_id2name': {0: 'a', 1: 'b', 2: 'c'},
        'skeleton_links': [(0, 1), (1, 2), (2, 0)],
        'sigmas': np.array([0.026, 0.025, 0.035], np.float32),
        'dataset_name': 'mine',
    }
    model = ModelInfo.of(inferencer_with(meta, [2, 0], weights='https://x.org/models/a.pth'))
    assert (model.keypoints, model.skeleton) == (('c', 'a'), ((0, 1),))
    assert (model.sigmas, model.dataset) == ((0.035, 0.026), 'mine')
    assert (model.config, model.weights) == (None, 'a.pth')


def test_a_model_without_names_has_numbers():
    model = ModelInfo.of(inferencer_with({}, None, weights='none'))
    assert model == ModelInfo(keypoints=('0', '1', '2'))


# ------------------------------------------------------------------------------- files


FILE_SYSTEMS = {
    'fsspec': fsspec.filesystem('memory'),
    'fsspec, local': fsspec.filesystem('file'),
    'pyarrow, local': pyarrow.fs.LocalFileSystem(),
    'fsspec in pyarrow, local': pyarrow.fs.PyFileSystem(
        pyarrow.fs.FSSpecHandler(fsspec.filesystem('file'))
    ),
}


@pytest.mark.parametrize('filesystem', FILE_SYSTEMS.values(), ids=FILE_SYSTEMS)
def test_a_file_has_the_same_bytes_in_every_file_system(tmp_path, filesystem):
    table = tables_of(BEFORE, MODEL).poses
    write_table(table, str(tmp_path / 'x' / 'local.parquet'))
    path = str(tmp_path / 'y' / 'z' / 'other.parquet')
    write_table(tables_of(BEFORE, MODEL).poses, path, filesystem)
    fs = pyarrow.fs
    if not isinstance(filesystem, fs.FileSystem):
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    with filesystem.open_input_file(path) as file:
        assert file.read() == (tmp_path / 'x' / 'local.parquet').read_bytes()


def die_before_rename(name: str, arguments: list[str], log: str, chunk: int) -> None:
    """Run the tool in a separate process, which is killed when a file is written, but not named."""
    replace = atomic.os.replace

    def replace_or_die(partial_path: str, path: str) -> None:
        if path.endswith(name):
            signal.raise_signal(signal.SIGKILL)
        replace(partial_path, path)

    atomic.os.replace = replace_or_die
    main_of_process(arguments, log, chunk)


def test_after_a_kill_all_files_are_complete_and_a_resumed_run_has_the_same(
    arguments, complete, tmp_path
):
    out_dir, name = tmp_path / 'out', 'images/part-v00000-00001.parquet'
    main = partial(die_before_rename, name)  # that of the poses is there
    process = ToolProcess([*arguments, '--out-dir', out_dir], tmp_path / 'log', CHUNK, main)
    assert process.wait().status == -signal.SIGKILL
    written, expected = files_below(out_dir), files_below(complete)
    (incomplete,) = (path for path in written if '.partial-' in path)
    assert written[incomplete] == expected[f'parquet/{name}']
    tables = {path for path in written if path.endswith('.parquet')}
    assert {path: written[path] for path in tables} == {path: expected[path] for path in tables}
    images = images_of(read_lines(complete / 'predictions.jsonl'))
    for read in READERS:
        assert read(out_dir / 'parquet' / 'images') == images[:9]

    assert run_tool(*arguments, '--out-dir', out_dir, '--resume').status == 3
    info = orjson.loads((out_dir / 'run.json').read_bytes())
    assert info['counts']['resumed'] == 9
    assert files_below(out_dir) == expected


@pytest.mark.parametrize(('count', 'chunks'), [(0, 0), (4, 1), (5, 2), (9, 3), (13, 4), (15, 5)])
def test_the_files_after_the_resume_point_are_removed(complete, tmp_path, count, chunks):
    shutil.copytree(complete / 'parquet', tmp_path / 'parquet')
    (tmp_path / 'parquet' / 'poses' / 'part-9.parquet').write_text('mine')
    records = read_lines(complete / 'predictions.jsonl')[:count]
    options = RunOptions(out_dir=str(tmp_path), formats=('parquet',))
    videos = [Frame(0, 'in/000000.mp4', '000000.mp4')]
    context = WriterContext(inferencer=inferencer_with({}, None), options=options, videos=videos)
    resume = ResumePoint(images=count, records=lambda: iter(records))
    ParquetWriter(context).open(str(tmp_path), resume)
    for table in TABLES:
        kept = [f'part-{chunk}.parquet' for chunk in CHUNKS[:chunks]]
        mine = ['part-9.parquet'] if table == 'poses' else []
        assert sorted(os.listdir(tmp_path / 'parquet' / table)) == [*kept[:2], *mine, *kept[2:]]


def test_a_complete_run_resumes_to_itself(arguments, complete):
    before = files_below(complete)
    assert run_tool(*arguments, '--out-dir', complete, '--resume').status == 3
    assert files_below(complete) == before


def test_a_run_does_not_resume_with_another_version_of_pyarrow(arguments, complete, monkeypatch):
    monkeypatch.setattr(pa, '__version__', '25.0.0')
    outcome = run_tool(*arguments, '--out-dir', complete, '--resume')
    assert outcome.status == 1
    assert 'changed since the earlier run: parquet ' in outcome.err


@pytest.fixture
def small_run(models: Models, two_photos: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs a tiny model over two images, or a video of few frames, into ``tmp_path / 'out'``."""

    def run(*options: str, inputs: Path = two_photos, formats: str = 'parquet') -> Any:
        out = ('--out-dir', tmp_path / 'out', '--format', formats)
        return run_tool(inputs, *out, *models.one_stage, *options)

    return run


def test_a_run_that_is_replaced_leaves_only_files_of_others(small_run, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    write_photos(folder, CHUNK + 1)
    write_video(folder / 'a.mp4', painted(CHUNK + 1))
    assert small_run(inputs=folder).status == 0
    out = tmp_path / 'out'
    assert len(list(out.glob('parquet/*/part-*.parquet'))) == 8
    others = [out / 'parquet' / 'poses' / name for name in ('notes.txt', 'part-1.parquet')]
    for path in others:
        path.write_text('mine')
    assert small_run('--overwrite').status == 0
    assert sorted(out.glob('parquet/poses/*')) == [
        out / 'parquet' / 'poses' / name
        for name in ('notes.txt', 'part-0000000.parquet', 'part-1.parquet')
    ]
    assert small_run('--overwrite', formats='jsonl').status == 0
    assert sorted(out.glob('parquet/*/*')) == sorted(others)


@pytest.mark.parametrize(
    'name', ['poses/part-0000000', 'images/part-0000007', 'poses/part-v00000-00003']
)
def test_tables_that_no_run_wrote_are_not_mixed_with_those_of_a_run(small_run, tmp_path, name):
    path = tmp_path / 'out' / 'parquet' / f'{name}.parquet'
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    outcome = small_run()
    assert outcome.status == 1
    assert f'{name}.parquet would be replaced, and no run.json shows' in outcome.err
    assert small_run(formats='jsonl').status == 0
    assert path.read_text() == 'mine'


def test_a_folder_at_the_place_of_the_tables_is_reported(small_run, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'parquet').write_text('mine')
    outcome = small_run()
    assert outcome.status == 1
    assert 'parquet: expected a folder, found a file' in outcome.err


def test_a_dry_run_lists_the_tables(small_run, tmp_path, inputs):
    assert 'parquet/ (2 files) below' in small_run('--dry-run').out
    assert 'parquet/ (at least 6 files) below' in small_run('--dry-run', inputs=inputs).out


def test_without_pyarrow_the_error_names_the_extra(small_run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setattr('mmpose_batch.cli.infer_job.build', None)  # no model is built
    outcome = small_run()
    assert outcome.status == 1
    assert "format: parquet needs pyarrow: pip install 'mmpose-batch[parquet]' (" in outcome.err
    assert outcome.err.count('\n') == 1


# ------------------------------------------------------------------------------- document


def snippets() -> dict[str, str]:
    """The Python blocks of the document, by the title of their section."""
    sections = DOCUMENT.read_text(encoding='utf-8').split('\n### ')[1:]
    found = {}
    for section in sections:
        blocks = re.findall(r'^```python\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
        found[section.splitlines()[0]] = '\n'.join(blocks)
    return found


def as_tuples(found: Any) -> list[tuple]:
    """The rows of a result of any of the libraries, sorted."""
    if isinstance(found, pd.DataFrame):
        rows = found.astype(object).itertuples(index=False)
    elif isinstance(found, pa.Table):
        rows = (row.values() for row in found.to_pylist())
    else:
        rows = found.fetchall() if isinstance(found, duckdb.DuckDBPyRelation) else found.rows()
    plain = (tuple(None if value is pd.NA else value for value in row) for row in rows)
    return sorted(plain, key=repr)


def with_raised_hand(records: Rows) -> list[tuple]:
    found = {
        (record.get('video', record.get('image')), record.get('frame'))
        for record in records
        for person in record.get('instances', ())
        for wrist in (9, 10)
        if person['keypoints'][wrist][1] < person['keypoints'][0][1]
        and min(person['keypoint_scores'][wrist], person['keypoint_scores'][0]) > 0.3
    }
    return sorted(found, key=repr)


def persons_per_minute(records: Rows) -> list[tuple]:
    frames = [
        (record['video'], record['time'] // 60, len(record['instances']))
        for record in records
        if record.get('time') is not None and 'instances' in record
    ]
    groups = groupby(sorted(frames), key=lambda frame: frame[:2])
    return [(*key, mean(count for *_, count in group)) for key, group in groups]


def raised_hands() -> Rows:
    """Records of two videos of several minutes in which persons raise hands, and of an image."""
    rng = np.random.default_rng(0)

    def person() -> dict[str, Any]:
        keypoints = np.round(rng.uniform(0, 100, (17, 2)), 3).tolist()
        return {
            'keypoints': keypoints,
            'keypoint_scores': np.round(rng.uniform(0, 1, 17), 5).tolist(),
        }

    records: Rows = [
        {'video': video, 'frame': frame, 'time': 20.0 * frame, **SIZE, 'instances': persons}
        for video in ('a.mp4', 'b.mp4')
        for frame in range(10)
        for persons in [[person() for _ in range(rng.integers(0, 4))]]
    ]
    records[5] = {**{k: records[5][k] for k in ('video', 'frame', 'time')}, 'error': 'damaged'}
    return [{'image': 'a.jpg', **SIZE, 'instances': [person() for _ in range(5)]}, *records]


@pytest.fixture(scope='module')
def several_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables and records of :func:`raised_hands`."""
    out_dir, records = tmp_path_factory.mktemp('minutes'), raised_hands()
    model = ModelInfo(keypoints=tuple(COCO))
    for number in range(0, len(records), CHUNK):
        for name, table in tables_of(records[number : number + CHUNK], model)._asdict().items():
            write_table(table, str(out_dir / 'parquet' / name / f'part-{number:07}.parquet'))
    lines = b''.join(orjson.dumps(record) + b'\n' for record in records)
    (out_dir / 'predictions.jsonl').write_bytes(lines)
    return out_dir


COCO = [
    'nose',
    *(f'{n}' for n in range(1, 9)),
    'left_wrist',
    'right_wrist',
    *map(str, range(11, 17)),
]


@pytest.mark.parametrize('section', snippets())
@pytest.mark.parametrize('name', ['complete', 'several_minutes'])
def test_the_queries_of_the_document_find_what_the_records_contain(
    tmp_path, monkeypatch, request, section, name
):
    out_dir = request.getfixturevalue(name)
    monkeypatch.chdir(tmp_path)
    os.symlink(out_dir, 'poses')
    values: dict[str, Any] = {}
    exec(snippets()[section], values)
    records = read_lines(out_dir / 'predictions.jsonl')
    assert as_tuples(values['raised']) == with_raised_hand(records)
    expected = persons_per_minute(records)
    found = as_tuples(values['per_minute'])
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected])
    if section == 'pyarrow':
        assert values['keypoints'].shape[1:] == (17, 2)
    if section == 'DuckDB':
        ((text,),) = values['model'].fetchall()
        assert json.loads(text)['keypoints'][9] == 'left_wrist'


def test_the_document_has_a_query_for_every_reader():
    assert list(snippets()) == ['pyarrow', 'pandas', 'Polars', 'DuckDB']


def test_the_queries_have_something_to_find():
    records = raised_hands()
    assert 0 < len(with_raised_hand(records)) < len(records)
    assert len({minute for _, minute, _ in persons_per_minute(records)}) > 2
