from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope='module')
def small_chunks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use chunks of the size ``CHUNK`` of the test module, if it has one, instead of 256."""
    size = getattr(request.module, 'CHUNK', None)
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr('mmpose_batch.sources.items.CHUNK', size)
        yield
