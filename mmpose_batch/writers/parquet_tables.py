"""Records as Arrow tables, and their Parquet files: one row per person, and one per image.

Nothing here needs a run: another process can write the files of a chunk from its records.
pyarrow loads slowly and is optional, so that it is imported when it is used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..version import __version__
from .atomic import open_atomically
from .base import Record

if TYPE_CHECKING:
    import pyarrow as pa

    from ..inferencer import BatchPose2DInferencer

# Key in the metadata of both schemas, whose value is a :class:`ModelInfo` as JSON.
METADATA_KEY = b'mmpose_batch'


def import_pyarrow() -> ModuleType:
    """Import pyarrow and its Parquet module.

    Raises:
        OutputError: It is not installed, or cannot be used. The message is one line.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        from ..errors import OutputError, one_line  # not at the top: it imports PyTorch

        raise OutputError(
            "format: parquet needs pyarrow: pip install 'mmpose-batch[parquet]' "
            f'({one_line(error)})'
        ) from error
    return pyarrow


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What the metadata of the tables contain about the model; small and picklable.

    Attributes:
        keypoints: Names of the K keypoints, in the order of the columns.
        skeleton: Links between keypoints, as pairs of indices.
        sigmas: COCO's constant of each keypoint; empty if the dataset has none.
        dataset: Name of the dataset that describes the keypoints; None if it has none.
        config: File name of the model's config; None if it is not from a file.
        weights: File name of the model's checkpoint; None for random weights.
        version: Version of this package.
    """

    keypoints: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    dataset: str | None = None
    config: str | None = None
    weights: str | None = None
    version: str = __version__

    @classmethod
    def of(cls, inferencer: 'BatchPose2DInferencer') -> 'ModelInfo':
        """The description of an inferencer's pose model, with the keypoints that it outputs."""
        keypoints = inferencer.predictor.pose.keypoints
        meta, indices = keypoints.dataset_meta, keypoints.indices
        if indices is None:
            indices = range(keypoints.num_keypoints)
        place = {index: number for number, index in enumerate(indices)}
        names = meta.get('keypoint_id2name') or {}
        links = meta.get('skeleton_links') or ()
        weights = inferencer.arguments.get('weights')
        return cls(
            keypoints=tuple(str(names.get(index, index)) for index in indices),
            skeleton=tuple((place[a], place[b]) for a, b in links if a in place and b in place),
            sigmas=tuple(float(f'{sigma:.6g}') for sigma in keypoints.sigmas),  # of float32
            dataset=meta.get('dataset_name'),
            config=_file_name(getattr(inferencer.cfg, 'filename', None)),
            weights=None if weights == 'none' else _file_name(weights),
        )


def _file_name(path: Any) -> str | None:
    """The last part of a path or URL."""
    return path.replace('\\', '/').rsplit('/', 1)[-1] if path and isinstance(path, str) else None


class Tables(NamedTuple):
    """The tables of a chunk, each with the model in the metadata of its schema.

    Attributes:
        poses: One row per person.
        images: One row per image or frame, also of those that failed.
    """

    poses: 'pa.Table'
    images: 'pa.Table'


def tables_of(records: Iterable[Record], model: ModelInfo) -> Tables:
    """Convert the records of a chunk; rows are in the order of the records.

    The columns are the same for all records of a model: values that a record lacks are null.

    Args:
        records: Records, as in ``predictions.jsonl``.
        model: The model, with as many keypoints as each instance has.

    Raises:
        OutputError: pyarrow is not installed.
        ValueError: The instances have another number of keypoints.
    """
    records = list(records)
    metadata = {METADATA_KEY: orjson.dumps(asdict(model))}
    return Tables(
        poses=_table(_columns_of_persons(records, len(model.keypoints)), metadata),
        images=_table(_columns_of_images(records), metadata),
    )


def _table(columns: 'dict[str, pa.Array]', metadata: dict[bytes, bytes]) -> 'pa.Table':
    return import_pyarrow().table(columns).replace_schema_metadata(metadata)


def _columns_of_persons(records: Sequence[Record], num_keypoints: int) -> 'dict[str, pa.Array]':
    pa = import_pyarrow()
    rows = [
        (record, number, instance)
        for record in records
        for number, instance in enumerate(record.get('instances', ()))
    ]
    of_rows = [record for record, _, _ in rows]
    instances = [instance for _, _, instance in rows]
    return {
        **_columns_of_sources(of_rows),
        'person': pa.array([number for _, number, _ in rows], pa.int32()),
        'track_id': _column(instances, 'track_id', pa.int64()),
        'category_id': _column(instances, 'category_id', pa.int64()),
        'bbox': _column(instances, 'bbox', pa.list_(pa.float32(), 4)),
        'bbox_score': _column(instances, 'bbox_score', pa.float32()),
        'keypoints': _fixed_lists([i['keypoints'] for i in instances], (num_keypoints, 2)),
        'keypoint_scores': _fixed_lists(
            [i['keypoint_scores'] for i in instances], (num_keypoints,)
        ),
    }


def _columns_of_images(records: Sequence[Record]) -> 'dict[str, pa.Array]':
    pa = import_pyarrow()
    persons = [len(r['instances']) if 'instances' in r else None for r in records]
    return {
        **_columns_of_sources(records),
        'time_guessed': pa.array(
            [r.get('time_guessed', False) if 'frame' in r else None for r in records], pa.bool_()
        ),
        'width': _column(records, 'width', pa.int32()),
        'height': _column(records, 'height', pa.int32()),
        'persons': pa.array(persons, pa.int32()),
        'error': _column(records, 'error', pa.string()),
    }


def _columns_of_sources(records: Sequence[Record]) -> 'dict[str, pa.Array]':
    """The columns that both tables have: the image, or the video and its frame."""
    pa = import_pyarrow()
    sources = [record['video'] if 'video' in record else record['image'] for record in records]
    return {
        'source': pa.array(sources, pa.string()).dictionary_encode(),
        'frame': _column(records, 'frame', pa.int64()),
        'time': _column(records, 'time', pa.float64()),
    }


def _column(items: Iterable[Record], key: str, kind: 'pa.DataType') -> 'pa.Array':
    """The values of a field, null where it is missing."""
    return import_pyarrow().array([item.get(key) for item in items], kind)


def _fixed_lists(rows: Sequence[Any], shape: tuple[int, ...]) -> 'pa.Array':
    """Arrays of one shape as lists of float32 with a fixed number of elements.

    Raises:
        ValueError: A row has another shape.
    """
    import numpy as np

    pa = import_pyarrow()
    values = np.array(rows, dtype=np.float32)
    if rows and values.shape[1:] != shape:
        raise ValueError(f'keypoints: expected the shape {shape}, found {values.shape[1:]}')
    size = int(np.prod(shape))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)


def write_table(table: 'pa.Table', path: str, filesystem: Any = None) -> None:
    """Write a table as one Parquet file, which replaces an existing one.

    A local file is written under another name and renamed, so that it is complete or absent; so
    are files in an object store, which show when their upload is complete. Equal tables give
    equal bytes, with the same version of pyarrow.

    Args:
        table: The table.
        path: Path of the file. Local folders are created.
        filesystem: A file system of pyarrow or fsspec; None for the local one.

    Raises:
        OSError: The file cannot be written.
    """
    pa = import_pyarrow()
    buffer = pa.BufferOutputStream()
    # Other columns hold numbers that hardly repeat.
    pa.parquet.write_table(table, buffer, compression='zstd', use_dictionary=['source'])
    data = buffer.getvalue()
    if filesystem is None or _is_local(filesystem):
        with open_atomically(path) as file:
            file.write(data)
        return
    import pyarrow.fs

    if not isinstance(filesystem, pyarrow.fs.FileSystem):
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    with filesystem.open_output_stream(path) as file:
        file.write(data)


def _is_local(filesystem: Any) -> bool:
    """Whether a file system of pyarrow or fsspec is that of this machine."""
    kind = getattr(filesystem, 'type_name', None) or filesystem.protocol
    return 'local' in kind  # 'local', "py::fsspec+('file', 'local')" or ('file', 'local')
