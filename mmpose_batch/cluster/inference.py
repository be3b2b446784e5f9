"""Records of chunks, inferred in the process of an actor, or in a process of its own."""

import logging
import os
import os.path as osp
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmengine.logging import MMLogger

from ..copies import build_on
from ..distributed.chunk_files import chunk_path, read_chunk_records
from ..distributed.chunks import Chunk
from ..distributed.infer import ChunkInferer
from ..distributed.process import WorkerProcess, check_selection
from ..distributed.worker import WorkerSetup, warm_up
from ..engines.warmup import outcome
from ..results import to_record
from ..sources.items import Samples
from ..writers.base import Record
from ..writers.options import RunOptions


class Inference(Protocol):
    """Infers chunks."""

    def records(self, chunk: Chunk) -> tuple[list[Record], bool]:
        """The records of a chunk, and whether no frames of its video follow it.

        The chunks of a video are given in order; the first one may be any, unless the inference
        is isolated.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorSetup:
    """Everything that an actor needs to build its inferencer; it is pickled.

    Attributes:
        worker: What worker processes need too.
        samples: Images and videos that engines are verified with.
        selected: The engines and batch sizes to select.
    """

    worker: WorkerSetup
    samples: Samples
    selected: Mapping[str, Any]

    @property
    def device(self) -> str:
        """Device of the networks."""
        return self.worker.state['spec'].settings['device']


class InActor:
    """Infers in the process of the actor.

    Args:
        setup: What the run shares with its actors.
        earlier: With tracking, returns the records of the video before a chunk.

    Raises:
        RunError: Other engines or batch sizes are selected than for the run.
    """

    def __init__(self, setup: ActorSetup, earlier: Callable[[Chunk], Iterator[Record]]) -> None:
        worker = setup.worker
        MMLogger.get_current_instance().setLevel(logging.ERROR)  # Ray prints it for each actor
        inferencer = build_on(worker.kind, worker.state, setup.device)
        warm_up(inferencer, worker.call, setup.samples, setup.selected)
        check_selection(outcome(inferencer.runners), setup.selected)
        self._chunks = ChunkInferer(inferencer, worker.call, worker.video_options, earlier)

    def records(self, chunk: Chunk) -> tuple[list[Record], bool]:
        """See :class:`Inference`."""
        records = [to_record(result) for result in self._chunks.results(chunk)]
        return records, self._chunks.ends_video(chunk)


class Isolated:
    """Infers in a process of its own, and finds the files that kill it: they become failures.

    Args:
        setup: What the run shares with its actors.
        timeout: Seconds after which a chunk counts as hanging; None for never.
        is_bound: Whether its process must select what the setup contains; else it may select what
            that leaves open.
    """

    def __init__(self, setup: ActorSetup, timeout: float | None, is_bound: bool = True) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        self._folder = self._temporary.name
        path = osp.join(self._folder, 'setup')
        # Here is a folder that exists on this node.
        own = {'options': RunOptions(out_dir=self._folder), 'folder': self._folder}
        with open(path, 'wb') as file:
            pickle.dump(replace(setup.worker, **own), file)
        arguments = setup.device, f'{path}-journal', timeout, setup.samples, setup.selected
        self._process = WorkerProcess(path, *arguments)
        self._process.is_bound = is_bound
        self._setup = setup
        self._done: list[str] = []

    def warmed_up(self) -> ActorSetup:
        """The setup with what this process selects, without the images that kill it.

        Raises:
            RunError: The process dies whatever is left out.
            Exception: Any exception of the inferencer.
        """
        found = self._process.start()
        return replace(self._setup, samples=self._process.samples, selected=found.selected)

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
    """Start an inference, from a pickled :class:`ActorSetup`."""
    loaded: ActorSetup = pickle.loads(setup)
    return Isolated(loaded, timeout) if isolated else InActor(loaded, earlier)
