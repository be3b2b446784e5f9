"""JSON lines: complete records in order, also of a killed run."""

import json
from pathlib import Path

import orjson
import pytest

from mmpose_batch.writers.jsonl import JsonLinesFile, read_records

RECORDS = [{'image': f'{name}.jpg', 'instances': []} for name in ('a', 'ümlaut', 'line\nbreak')]


def written(path: Path, records: list[dict], **options: int) -> bytes:
    with JsonLinesFile(str(path), **options) as file:
        for record in records:
            file.append(record)
    return path.read_bytes()


def test_records_come_back_as_they_went(tmp_path):
    path = tmp_path / 'sub' / 'records.jsonl'
    data = written(path, RECORDS)
    assert [json.loads(line) for line in data.splitlines()] == RECORDS
    records, ends = zip(*read_records(str(path)), strict=True)
    assert list(records) == RECORDS
    assert ends[-1] == len(data)
    assert [data[end - 1 : end] for end in ends] == [b'\n'] * 3


def test_records_are_in_the_file_after_a_sync(tmp_path):
    path = tmp_path / 'records.jsonl'
    with JsonLinesFile(str(path)) as file:
        for count, record in enumerate(RECORDS, 1):
            file.append(record)
            assert len(path.read_bytes().splitlines()) == count - 1
            file.sync()
            assert len(path.read_bytes().splitlines()) == count


def test_records_that_wait_for_a_sync_take_little_memory(tmp_path):
    path = tmp_path / 'records.jsonl'
    with JsonLinesFile(str(path)) as file:
        for _ in range(1000):
            file.append(RECORDS[0])
        assert path.stat().st_size > 1000 * len(orjson.dumps(RECORDS[0])) - 10_000


def test_an_incomplete_line_and_all_after_it_are_ignored(tmp_path):
    path = tmp_path / 'records.jsonl'
    data = written(path, RECORDS)
    ends = [end for _, end in read_records(str(path))]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        found = [record for record, _ in read_records(str(path))]
        assert found == RECORDS[: sum(end <= length for end in ends)]
    path.write_bytes(data[: ends[0]] + b'\0' * 40 + b'\n' + data)  # as after a power cut
    assert [record for record, _ in read_records(str(path))] == RECORDS[:1]


@pytest.mark.parametrize('kept', range(4))
def test_a_file_is_truncated_and_continued(tmp_path, kept):
    path = tmp_path / 'records.jsonl'
    complete = written(path, RECORDS)
    ends = [0, *(end for _, end in read_records(str(path)))]
    with path.open('ab') as file:
        file.write(b'{"image": "torn')
    assert written(path, RECORDS[kept:], keep_bytes=ends[kept]) == complete


def test_the_file_is_closed_after_an_error(tmp_path):
    path = tmp_path / 'records.jsonl'
    file = JsonLinesFile(str(path))
    with pytest.raises(LookupError), file:
        file.append(RECORDS[0])
        raise LookupError
    assert [record for record, _ in read_records(str(path))] == RECORDS[:1]
    with pytest.raises(ValueError, match='closed'):
        file.append(RECORDS[1])
