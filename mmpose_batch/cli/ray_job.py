"""The job that a command line of ``ray`` describes: checked, then run on the cluster."""

import argparse
import os.path as osp
import sys
from typing import Any

from ..cluster.driver import check_resources, connect, import_ray
from ..cluster.files import ClusterFolder
from ..cluster.outputs import read_info
from ..cluster.prepare import Preparation
from ..cluster.run import (
    Listing,
    Summary,
    check_videos,
    find_inputs,
    list_inputs,
    plan_for_workers,
    prepare,
)
from ..cluster.run import run as run_on_cluster
from ..config import CallOptions
from ..factory import Plan, plan_inferencer
from ..writers.parquet_tables import import_pyarrow
from .console import model_errors, note_demo_models, show
from .infer_job import INFERENCER, chosen_filters, parse_cfg_options
from .options import take


def run_job(args: argparse.Namespace) -> Summary:
    """Check what can be checked without a cluster, then run.

    Raises:
        ValueError: Arguments that are wrong or cannot be combined.
        CheckpointError, EngineError, OutputError, RunError: The run is not possible.
    """
    options = args.options
    import_ray()
    if options.parquet:
        import_pyarrow()
    folder = ClusterFolder(options.out_dir)
    folder.check()
    read_info(folder)  # rejects a folder with a run of one machine
    with model_errors():
        plan = plan_inferencer(
            args.pose2d,
            args.pose2d_weights,
            parse_cfg_options(args.cfg_options),
            det_model=args.det_model,
            **take(args, [name for name in INFERENCER if hasattr(args, name)]),
        )
        if not options.num_gpus:  # else this machine may lack the device
            plan.check()
    filters = chosen_filters(args, plan.cfg)
    CallOptions(batch_size=1, **filters, select_thr=filters['bbox_thr'])  # checks the ranges
    # Nothing is written until there are inputs and a cluster; locking creates the folder.
    listing = find_inputs(folder, args.inputs, options, args.recursive, args.follow_links)
    connect(options)
    try:
        warning = check_resources(options)
        with folder.locked():
            return _run(args, folder, plan, filters, listing, [warning] if warning else [])
    finally:
        import_ray().shutdown()


def _run(
    args: argparse.Namespace,
    folder: ClusterFolder,
    plan: Plan,
    filters: dict[str, Any],
    listing: Listing,
    notes: list[str],
) -> Summary:
    """Run on the cluster, in an output folder that is locked."""
    options, info = args.options, read_info(folder)
    inputs, more = list_inputs(folder, listing)
    notes = [*more, *check_videos(inputs, args.video), *notes]
    plan = plan_for_workers(plan, inputs, options)
    preparation = Preparation(
        spec=plan.spec,
        call={**filters, 'select_thr': filters['bbox_thr']},
        video=args.video,
        folder=folder,
        inputs=inputs,
        selected=info['selected'] if info else {},
        config=plan.cfg.filename and osp.basename(plan.cfg.filename),
    )
    with model_errors():
        prepared = prepare(preparation, options)
    if not options.quiet:
        counts = f'{inputs.images} images and {inputs.videos} videos'
        show([f'{counts}, {args.pose2d}', *notes, *prepared.notes], sys.stderr)
        note_demo_models(args)
    return run_on_cluster(prepared, inputs, options)
