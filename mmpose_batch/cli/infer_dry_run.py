"""The report of a dry run of ``infer``."""

import argparse
from collections.abc import Iterator

from ..evaluation.result import Coverage
from ..runs.dry_run import describe_earlier_run, describe_run, read_weights
from ..writers.drawing import check_skeleton_style
from .infer_job import Job, evaluation_inputs


def describe_job(args: argparse.Namespace, job: Job) -> Iterator[str]:
    """Lines that report what a run would read, write and run.

    Raises:
        ValueError, RunError: The run would be rejected.
    """
    model = read_weights(job.plan)
    if args.save_vis and model:
        check_skeleton_style(args.skeleton_style, model.dataset_meta)
    yield from describe_run(job.items(), job.plan, job.options)
    if devices := job.parallel.workers:
        count = f'{len(devices)} process{"" if len(devices) == 1 else "es"}'
        yield f'workers   {count}: {", ".join(devices)}'
    categories, bboxes, notes, unknown = None, job.bboxes, [], []
    if job.annotations and model:
        categories, bboxes, notes = evaluation_inputs(args, job, model)
    elif job.annotations:
        ids = list(map(job.image_ids.all_of, job.paths))
        warning = Coverage.of(job.paths, ids, job.image_ids.names).warning()
        notes = [job.annotations.coverage_note(), *([f'warning: {warning}'] if warning else [])]
    if job.annotations and job.annotations.several:
        unknown = [] if model and not job.plan.detector else ['categories']
        unknown += ['bboxes'] if args.bboxes and bboxes is None else []
    items = job.items(bboxes, categories)
    yield from describe_earlier_run(items, job.plan, job.call, job.options, categories, unknown)
    yield from job.notes
    yield from notes
