"""Built once for a run on a cluster: what its workers need, and what its outputs depend on."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import VideoOptions
from ..distributed.worker import WorkerSetup
from ..engines.warmup import outcome, restore
from ..runs import identity
from ..sources.base import Frame
from ..sources.items import Samples
from ..spec import InferencerSpec
from ..writers.options import RunOptions
from ..writers.parquet_tables import ModelInfo
from .files import ClusterFolder, is_url
from .inference import ActorSetup, Isolated
from .inputs import Inputs, image_chunk, read_offsets, videos_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a run has prepared.

    Attributes:
        setup: The pickled :class:`mmpose_batch.cluster.inference.ActorSetup`.
        identity: What the outputs depend on, without the inputs.
        selected: Selected engines and batch sizes, for a restarted run.
        model: The model, for Parquet tables.
        notes: Lines about the model.
    """

    setup: bytes
    identity: dict[str, Any]
    selected: dict[str, Any]
    model: ModelInfo
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Builds the inferencer of a run once, selects engines, and describes it for workers.

    It is called on a worker if workers have GPUs, which the driver may lack.

    Attributes:
        spec: The inferencer.
        call: Options of the call: thresholds.
        video: Which frames of videos are used, and whether persons are tracked.
        folder: The output folder.
        inputs: The inputs, of which some images are used to verify engines.
        selected: What an earlier start of the run has selected; empty without one.
        config: File name of the model's config, for Parquet tables; None if it has none.
    """

    spec: InferencerSpec
    call: Mapping[str, Any]
    video: VideoOptions
    folder: ClusterFolder
    inputs: Inputs
    selected: Mapping[str, Any]
    config: str | None = None

    def __call__(self) -> Prepared:
        """Build, and warm up if engines or batch sizes are to be selected.

        Raises:
            RunError: Others are selected than by an earlier start of the run.
            ValueError, CheckpointError, EngineError: The inferencer cannot be built.
        """
        inferencer = self.spec.build()
        inferencer.predictor.pose.check_loader()
        call = inferencer.call_options(**self.call)
        if self.selected:
            restore(inferencer.runners, self.selected)
        wanted = inferencer.predictor.wants_samples(call)
        setup = ActorSetup(
            worker=WorkerSetup.of(
                inferencer,
                call=call,
                options=RunOptions(out_dir='.'),  # each worker has its own
                video_options=self.video,
                of_label=None,
            ),
            samples=self._samples(wanted) if wanted else Samples(0),
            selected=self.selected or outcome(inferencer.runners),
        )
        if wanted:
            setup = self._warmed_up(setup)
        return Prepared(
            setup=pickle.dumps(setup),
            identity={
                **identity.of_inferencer(inferencer, call),
                'videos': identity.of_videos(self.video) if self.inputs.videos else None,
            },
            selected=dict(setup.selected),
            model=replace(ModelInfo.of(inferencer), config=self.config),  # a spec has no file name
            notes=list(inferencer.model.load_notes),
        )

    def _warmed_up(self, setup: ActorSetup) -> ActorSetup:
        """Select engines in a process of its own, since a file may kill it."""
        isolated = Isolated(setup, timeout=None, is_bound=bool(self.selected))
        try:
            return isolated.warmed_up()
        finally:
            isolated.close()

    def _samples(self, count: int) -> Samples:
        """Images spread over the run; without images, its first videos."""
        inputs, folder = self.inputs, self.folder
        if not inputs.images:
            paths = [path for path in videos_of(folder, inputs) if not is_url(path)]
            videos = [Frame(0, path, path, source_id=path) for path in paths[:count]]
            return Samples(count, videos=videos)
        offsets, chunks = read_offsets(folder), {}
        frames = []
        for index in np.linspace(0, inputs.images - 1, min(count, inputs.images)).astype(int):
            number, place = divmod(int(index), inputs.chunk)
            if number not in chunks:
                chunks = {number: image_chunk(folder, inputs, number, offsets[number].tolist())}
            frames.append(chunks[number].images[place])
        return Samples(count, frames)
