"""Inputs whose files a killed run may have written before their records."""

from ..sources.items import Items
from .summary import RunSummary


def pending_names(items: Items, summary: RunSummary, ahead: int, streamed: bool) -> list[str]:
    """Names of these inputs: those of the current chunk, which a resumed run repeats.

    Args:
        items: Inputs of the run.
        summary: Counts of the run so far.
        ahead: Number of chunks of images that may be written before the first is complete. Files
            of videos are never written ahead.
        streamed: Whether all inputs are inferred.
    """
    images, videos = items.images, items.videos
    done, chunk = summary.images, items.chunk
    if done < len(images) or not videos:
        done -= done % chunk
        return [frame.name for frame in images[done : done + chunk * ahead]]
    if streamed:  # files of complete videos follow
        return [frame.name for frame in videos]
    video = max(summary.videos - 1, 0)  # the current one, or the next if it is complete
    return [frame.name for frame in videos[video : video + 2]]
