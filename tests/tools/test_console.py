"""What the tools share is what the package says."""

from support.factories import load_tool

from mmpose_batch.engines import options
from mmpose_batch.runtime import PRECISIONS


def test_the_tools_offer_what_the_package_has():
    console = load_tool('console')
    assert console.ENGINES == options.ENGINES
    assert console.PRECISIONS == PRECISIONS
