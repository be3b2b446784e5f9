"""Records of chunks, inferred in the process of an actor, or in a process of its own."""

import logging
import os
import os.path as osp
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from mmengine.logging import MMLogger

from ..copies import build_on
from ..engines.warmup import outcome
from ..errors import RunError
from ..results import to_record
from ..writers.base import Record
from ..writers.options import RunOptions
from .chunk_files import chunk_path, read_chunk_records
from .chunks import Chunk
from .infer import ChunkInferer
from .process import WorkerProcess
from .worker import WorkerSetup


class Inference(Protocol):
    """Infers chunks."""

    def records(self, chunk: Chunk) -> tuple[list[Record], bool]:
        """The records of a chunk, and whether no frames of its video follow it.

        The chunks of a video are given in order; the first one may be any, unless the inference
        is isolated.
        """


class InActor:
    """Infers in the process of the actor.

    Args:
        setup: What the run shares with its workers.
        earlier: With tracking, returns the records of the video before a chunk.
    """

    def __init__(self, setup: WorkerSetup, earlier: Callable[[Chunk], Iterator[Record]]) -> None:
        MMLogger.get_current_instance().setLevel(logging.ERROR)  # Ray prints it for each actor
        inferencer = build_on(setup.kind, setup.state, setup.state['spec'].settings['device'])
        if setup.samples and inferencer.predictor.wants_samples(setup.call):
            inferencer.predictor.warm_up(setup.samples, setup.call)
        _check_selection(outcome(inferencer.runners), setup.state['spec'].selected)
        self._chunks = ChunkInferer(inferencer, setup.call, setup.video_options, earlier)

    def records(self, chunk: Chunk) -> tuple[list[Record], bool]:
        """See :class:`Inference`."""
        records = [to_record(result) for result in self._chunks.results(chunk)]
        return records, self._chunks.ends_video(chunk)


def _check_selection(own: Mapping[str, Any], of_run: Mapping[str, Any]) -> None:
    """Check that an actor has the engines and batch sizes of its run.

    Raises:
        RunError: It has others, with which its results would differ.
    """
    for key, values in of_run.items():
        for name, value in values.items():
            if own[key].get(name) != value:
                raise RunError(
                    f'a worker selected {own[key].get(name)} as {key} of {name}, instead of '
                    f'{value}: its results would differ'
                )


class Isolated:
    """Infers in a process of its own, and finds the files that kill it: they become failures.

    Args:
        setup: What the run shares with its workers.
        timeout: Seconds after which a chunk counts as hanging; None for never.
    """

    def __init__(self, setup: WorkerSetup, timeout: float | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        self._folder = self._temporary.name
        path = osp.join(self._folder, 'setup')
        with open(path, 'wb') as file:
            pickle.dump(replace(setup, options=RunOptions(out_dir=self._folder)), file)
        device = setup.state['spec'].settings['device']
        self._process = WorkerProcess(path, device, f'{path}-journal', timeout)
        self._done: list[str] = []

    def records(self, chunk: Chunk) -> tuple[list[Record], bool]:
        """See :class:`Inference`."""
        path = chunk_path(self._folder, chunk)
        summary = self._process.infer(chunk)
        self._done.append(path)
        records = list(read_chunk_records(path))
        if chunk.video is None or summary.ended:  # the tracker of a video may need earlier ones
            for each in self._done:
                os.unlink(each)
            self._done = []
        return records, summary.ended

    def close(self) -> None:
        """End the process."""
        self._process.stop()
        self._temporary.cleanup()


def inference_of(
    setup: bytes,
    isolated: bool,
    timeout: float | None,
    earlier: Callable[[Chunk], Iterator[Record]],
) -> Any:
    """Start an inference, from a pickled :class:`WorkerSetup`."""
    loaded: WorkerSetup = pickle.loads(setup)
    return Isolated(loaded, timeout) if isolated else InActor(loaded, earlier)
