"""Rows of several datasets as one split."""

import datasets
import numpy as np

import affectnet_plus
from affectnet_plus import EXPRESSIONS
from affectnet_plus.training.faces.split import METADATA, Split


def joined(parts: dict[str, Split]) -> Split:
    """One split of the parts, by the names of their datasets, one after the other. Ids begin with the name; soft labels
    and metadata that a part lacks are unknown of its rows."""
    soft_labels = [
        np.full((len(part), len(EXPRESSIONS)), np.nan) if part.soft_labels is None else part.soft_labels
        for part in parts.values()
    ]
    has_some = any(part.soft_labels is not None for part in parts.values())
    return Split(
        next(iter(parts.values())).name,
        datasets.concatenate_datasets([_as_image(part.images) for part in parts.values()]),
        np.concatenate([part.labels for part in parts.values()]),
        np.concatenate(soft_labels) if has_some else None,
        np.concatenate([[f"{name}/{row_id}" for row_id in part.ids] for name, part in parts.items()]),
        np.concatenate([part.names for part in parts.values()]),
        "dataset and " + " or ".join(sorted({part.id_source for part in parts.values()})),
        _metadata(list(parts.values())),
        known=np.concatenate([part.known for part in parts.values()]),
        votes=None
        if any(part.votes is None for part in parts.values())
        else np.concatenate([part.votes for part in parts.values()]),
        datasets=np.concatenate([[name] * len(part) for name, part in parts.items()]),
    )


def _as_image(images: datasets.Dataset) -> datasets.Dataset:
    (column,) = images.column_names
    return images if column == "image" else images.rename_column(column, "image")


def _metadata(parts: list[Split]) -> datasets.Dataset | None:
    """The columns that any part has, null where a part has not."""
    held = {name for part in parts if part.metadata is not None for name in part.metadata.features}
    ours = affectnet_plus.features()
    features = datasets.Features({name: ours[name] for name in METADATA if name in held})
    if not features:
        return None
    tables = []
    for part in parts:
        own = [] if part.metadata is None else part.metadata.column_names
        lacking = {name: [None] * len(part) for name in features if name not in own}
        empty = datasets.Dataset.from_dict(lacking, datasets.Features({name: features[name] for name in lacking}))
        whole = [table for table in (part.metadata, empty) if table is not None and table.column_names]
        tables.append(datasets.concatenate_datasets(whole, axis=1).select_columns(list(features)))
    return datasets.concatenate_datasets(tables)
