"""The file of COCO results is complete or absent."""

import json

import pytest

from mmpose_batch.writers.coco import write_coco


@pytest.mark.parametrize('count', [0, 1, 3])
def test_the_file_is_one_json_array(tmp_path, count):
    path = tmp_path / 'results.json'
    results = [{'image_id': index, 'score': 0.5} for index in range(count)]
    write_coco(str(path), iter(results))
    assert json.loads(path.read_text()) == results


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / 'results.json'
    write_coco(str(path), [{'image_id': 1}])

    def results():
        yield {'image_id': 2}
        raise OSError(28, 'No space left on device')

    with pytest.raises(OSError, match='No space left'):
        write_coco(str(path), results())
    assert json.loads(path.read_text()) == [{'image_id': 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ['results.json']
