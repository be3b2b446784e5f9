"""Built once for a run on a cluster: what its workers need, and what its outputs depend on."""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ..config import VideoOptions
from ..engines.warmup import outcome
from ..errors import RunError
from ..runs import identity
from ..sources.base import Frame
from ..sources.video_frames import sample_frames
from ..spec import InferencerSpec
from ..writers.options import RunOptions
from ..writers.parquet_tables import ModelInfo
from .cluster_files import ClusterFolder, is_url
from .cluster_inputs import Inputs, image_chunk, read_offsets, videos_of
from .worker import WorkerSetup


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a run has prepared.

    Attributes:
        setup: The pickled :class:`WorkerSetup`.
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
    """

    spec: InferencerSpec
    call: Mapping[str, Any]
    video: VideoOptions
    folder: ClusterFolder
    inputs: Inputs
    selected: Mapping[str, Any]

    def __call__(self) -> Prepared:
        """Build, and warm up if engines or batch sizes are to be selected.

        Raises:
            RunError: Others are selected than by an earlier start of the run.
            ValueError, CheckpointError, EngineError: The inferencer cannot be built.
        """
        inferencer = replace(self.spec, selected=dict(self.selected)).build()
        inferencer.predictor.pose.check_loader()
        call = inferencer.call_options(**self.call)
        wanted = inferencer.predictor.wants_samples(call)
        samples = self._samples(wanted) if wanted else []
        if samples:
            inferencer.predictor.warm_up(samples, call)
        selected = outcome(inferencer.runners)
        for key, values in self.selected.items():
            if changed := [name for name in values if selected[key].get(name) != values[name]]:
                raise RunError(
                    f'cannot resume: {key} of {", ".join(changed)} were selected differently than '
                    'by the earlier start (results would be mixed); use another folder'
                )
        setup = WorkerSetup.of(
            inferencer,
            samples,
            call=call,
            options=RunOptions(out_dir='.'),  # each worker has its own
            video_options=self.video,
            of_label=None,
        )
        detector = inferencer.detector
        options = replace(inferencer.options, num_threads=torch.get_num_threads())
        cat_ids = None if detector is None else detector.cat_ids
        return Prepared(
            setup=pickle.dumps(setup),
            identity={
                **identity.of_models(inferencer),
                **identity.of_call(call),
                **identity.of_options(options, inferencer.device, cat_ids),
                'videos': self._of_videos(),
            },
            selected=selected,
            model=ModelInfo.of(inferencer),
            notes=list(inferencer.model.load_notes),
        )

    def _of_videos(self) -> dict[str, Any] | None:
        if not self.inputs.videos:
            return None
        packages = ('av', 'trackers', 'supervision') if self.video.track else ('av',)
        return {**asdict(self.video), **{name: version(name) for name in packages}}

    def _samples(self, count: int) -> list[Frame]:
        """Images spread over the run; without images, frames of its first video."""
        inputs, folder = self.inputs, self.folder
        if not inputs.images:
            local = [path for path in videos_of(folder, inputs) if not is_url(path)]
            return sample_frames(local[0], count) if local else []
        offsets, chunks = read_offsets(folder), {}
        frames = []
        for index in np.linspace(0, inputs.images - 1, min(count, inputs.images)).astype(int):
            number, place = divmod(int(index), inputs.chunk)
            if number not in chunks:
                chunks = {number: image_chunk(folder, inputs, number, offsets[number].tolist())}
            frames.append(chunks[number].images[place])
        return frames
