"""The card of an exported release: how `datasets` reads its files, whose licence applies, what is in it."""

import inspect
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field

import datasets
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from . import tree
from .expressions import CATEGORIES, EXPRESSIONS, SUBSETS
from .find import LAYOUTS

_TEMPLATE = os.path.join(os.path.dirname(__file__), "dataset_card.md.jinja")

_CONFIGURATIONS = {
    "human_annotated": "rows with one of the eight expressions.",
    **{name: f"those of them in the subset {name!r}; the same files, filtered." for name in SUBSETS},
    "human_annotated_all": "also rows labelled none, uncertain or non-face, which follow the others.",
    "no_human_annotated": "rows that no human has labelled: `label` and `subset` are null.",
    "affectnet_2021": "all rows; this release has only those with one of the eight expressions.",
    "affectnet_2017": "rows with one of the eight expressions; the faces are cut out of the photographs. The labels of "
    "`automatically_annotated`, where it is there, are a network's, not people's.",
    "ferplus": "faces on which most votes fall on one expression; ties, unknown and not a face are left out.",
}

# By configuration, as a release without soft labels has no other.
_SOFT_LABELS = {
    "human_annotated": """\
Eight independent confidences in [0, 1], one for each expression: how far it is present, whatever the others are. They
do **not** sum to one, so they call for a sigmoid and a binary loss for each, not for a softmax. Where a distribution is
needed, divide a soft label by its sum. `subset` is the rank of the human label among them: easy 1, challenging 2 or 3,
difficult 4 or lower; null without one of the eight expressions.""",
    "ferplus": """\
The share of each expression among the votes for one of the eight; they sum to one. `votes` holds the counts. `subset`
is null.""",
}
_NO_SOFT_LABELS = "This release has none: `soft_label` and `subset` are null."

_PROMPT = """\
AffectNet and AffectNet+ are given by their authors, for research only and on a signed agreement. Ask for access \
only if you have signed the AffectNet agreement yourself: {homepage}"""


@dataclass
class _Rows:
    """What the files folder/split-* hold."""

    features: datasets.Features
    counts: Counter = field(default_factory=Counter)  # of (label, subset), each a number or None
    num_bytes: int = 0  # in memory
    size: int = 0  # on disk
    checksum: int = 0  # of all bytes

    def number(self, subset: int | None = None) -> int:
        return sum(count for (_, own), count in self.counts.items() if subset in (None, own))


def dataset_card(release: str, config_name: str, files: dict[str, str], skipped: int) -> DatasetCard:
    """The card of an export.

    Args:
        release: folder of the release.
        config_name: configuration that reads it.
        files: {"folder/split-00000-of-00001.parquet": where it lies now}.
        skipped: how many broken rows were left out.
    """
    layout = LAYOUTS[config_name]
    facts = layout.ABOUT
    tables = _read(files)
    configs = _configs(config_name, tables)
    default = next(iter(configs))
    data = DatasetCardData(
        license="other",
        license_name="ferplus" if config_name == "ferplus" else "affectnet",
        license_link=facts["homepage"],
        pretty_name=layout.TITLE,
        task_categories=["image-classification"],
        size_categories=[_size_category(sum(rows.number() for rows in tables.values()))],
        tags=["facial-expression-recognition", *["soft-labels"] * (config_name in _SOFT_LABELS), "affectnet-plus"],
        configs=[
            {
                "config_name": name,
                **({"default": True} if name == default else {}),
                # `datasets` caches a folder by its name and its card alone. With a checksum of the files there, what
                # it has cached of an older export, or of another one of the same name, is not taken for this one.
                "description": f"{_sentence(_CONFIGURATIONS[name])} Checksum {_checksum(splits, tables)}.",
                "data_files": [
                    {"split": split, "path": [f"{folder}/{split}-*.parquet" for folder in folders]}
                    for split, folders in splits.items()
                ],
                **({"filters": [["subset", "=", SUBSETS.index(name)]]} if name in SUBSETS else {}),
            }
            for name, splits in configs.items()
        ],
    )
    drawn = tree.is_file(os.path.join(release, "ground_truth.parquet"))
    if config_name != "ferplus" and not drawn:
        data["extra_gated_prompt"] = _PROMPT.format(**facts)
    DatasetInfosDict({name: _info(name, configs[name], tables) for name in configs}).to_dataset_card_data(data)

    categories = CATEGORIES if "human_annotated_all" in configs else EXPRESSIONS
    return DatasetCard.from_template(
        data,
        template_path=_TEMPLATE,
        description=facts["description"],
        drawn=drawn,
        skipped=skipped,
        terms=facts["license"],
        homepage=facts["homepage"],
        default=default,
        split=next(iter(configs[default])),
        configurations={name: _CONFIGURATIONS[name] for name in configs},
        tables=_tables(tables),
        labels=", ".join(f"{index} {name}" for index, name in enumerate(categories)),
        soft_labels=_SOFT_LABELS.get(config_name, _NO_SOFT_LABELS),
        columns=_columns(config_name),
        citation=facts["citation"],
    )


def with_labels(features: datasets.Features, names: tuple[str, ...]) -> datasets.Features:
    """The same columns with other classes."""
    return datasets.Features({**features, "label": datasets.ClassLabel(names=list(names))})


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _read(files: dict[str, str]) -> dict[tuple[str, str], _Rows]:
    """{(folder, split): its rows}."""
    found: dict[tuple[str, str], _Rows] = {}
    for name, path in files.items():
        folder, _, file_name = name.partition("/")
        with pq.ParquetFile(path) as file:
            own_features = datasets.Features.from_arrow_schema(file.schema_arrow)
            rows = found.setdefault((folder, file_name.partition("-")[0]), _Rows(own_features))
            columns = file.read(["label", "subset"]).to_pydict()
            rows.counts.update(zip(columns["label"], columns["subset"], strict=True))
            rows.num_bytes += sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups))
        rows.size += os.path.getsize(path)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                rows.checksum = zlib.crc32(chunk, rows.checksum)
    return found


def _configs(config_name: str, tables: dict[tuple[str, str], _Rows]) -> dict[str, dict[str, list[str]]]:
    """{configuration: {split: folders}}, the default first. `datasets` cannot load a split without rows: left out."""
    folders = {config_name: [config_name]}
    if config_name == "human_annotated":
        folders = {name: ["human_annotated"] for name in ("human_annotated", *SUBSETS)}
        folders["human_annotated_all"] = ["human_annotated", "without_expression"]
        folders["no_human_annotated"] = ["no_human_annotated"]
    configs: dict[str, dict[str, list[str]]] = {}
    for name, looked_for in folders.items():
        for folder, split in tables:
            if folder in looked_for and tables[folder, split].number(_subset(name)):
                configs.setdefault(name, {}).setdefault(split, []).append(folder)
    return configs


def _checksum(splits: dict[str, list[str]], tables: dict[tuple[str, str], _Rows]) -> str:
    return "-".join(f"{tables[folder, split].checksum:08x}" for split, folders in splits.items() for folder in folders)


def _subset(name: str) -> int | None:
    return SUBSETS.index(name) if name in SUBSETS else None


def _info(name: str, splits: dict[str, list[str]], tables: dict[tuple[str, str], _Rows]) -> datasets.DatasetInfo:
    read = {split: [tables[folder, split] for folder in folders] for split, folders in splits.items()}
    infos = datasets.SplitDict()
    for split, kinds in read.items():
        numbers = [rows.number(_subset(name)) for rows in kinds]
        # Of a subset the bytes are not known but its share of the rows, all of one size.
        num_bytes = sum(rows.num_bytes * number // rows.number() for rows, number in zip(kinds, numbers, strict=True))
        infos.add(datasets.SplitInfo(split, num_bytes=num_bytes, num_examples=sum(numbers)))
    own_features = next(iter(read.values()))[0].features
    return datasets.DatasetInfo(
        features=with_labels(own_features, CATEGORIES) if name == "human_annotated_all" else own_features,
        splits=infos,
        download_size=sum(rows.size for kinds in read.values() for rows in kinds),
        dataset_size=sum(info.num_bytes for info in infos.values()),
    )


def _size_category(count: int) -> str:
    bounds = ("1K", "10K", "100K", "1M", "10M")
    place = max(len(str(count)) - 3, 0)
    return f"n<{bounds[0]}" if place == 0 else f"{bounds[place - 1]}<n<{bounds[place]}"


def _tables(tables: dict[tuple[str, str], _Rows]) -> str:
    """Rows by expression and, where there are any, by subset."""
    columns: dict[str, Counter] = {}
    for (folder, split), rows in tables.items():
        columns.setdefault(folder if folder == "no_human_annotated" else split, Counter()).update(rows.counts)
    texts = []
    for place, (title, names) in enumerate((("label", CATEGORIES), ("subset", SUBSETS))):
        if title == "subset" and all(subset is None for column in columns.values() for _, subset in column):
            continue
        lines = [[title, *columns], ["---", *["---:"] * len(columns)]]
        for number in (*range(len(names)), None):
            counts = [sum(n for key, n in column.items() if key[place] == number) for column in columns.values()]
            if any(counts):
                lines.append(["null" if number is None else names[number], *(f"{count:,}" for count in counts)])
        lines.append(["all", *(f"{column.total():,}" for column in columns.values())])
        texts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(texts)


def _columns(config_name: str) -> str:
    """The list of columns in the docstring of `features`, but `image`, which is another thing here."""
    from affectnet_plus import features  # here: that file is above this folder, and imports from it

    listed = re.findall(r"(?s)- `image_id`.*?(?=\n- `votes`|\n\n)", inspect.getdoc(features) or "")[0]
    votes = '\n- `votes`: how many of ten people chose each expression, "unknown" and "not a face".'
    return listed.replace("of `EXPRESSIONS`", "above") + votes * (config_name == "ferplus")
