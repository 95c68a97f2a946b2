#!/usr/bin/env python
"""A page of the rows whose human label the experts deny most, for a person to look at.

    python training/show_suspects.py --data_dir R --soft_labels runs/soft --output_file runs/suspects.html

First come the rows with the largest margin between the highest of the soft label's scores and that of the human label,
all of them for equally frequent expressions: under the frequencies of a split most doubt falls on the rare ones.
The same table lies beside the page as CSV. The page holds thumbnails of the faces: keep pages of restricted faces to
yourself.
"""

import html
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import ImageError
from affectnet_plus.training import pages
from affectnet_plus.training.arguments import DataArguments, exit_with_error, parse_arguments
from affectnet_plus.training.faces import Split, load_rows, read_soft_labels, split_to_label
from affectnet_plus.training.metrics import ranks_of
from affectnet_plus.training.soft_labels.calibration import reexpress

_STYLE = """
table { width: 100% } th { position: sticky; top: 0; background: #fff } .bars { min-width: 15rem }
@media (max-width: 46rem) { thead { display: none } tr { display: grid; grid-template-columns: 112px 1fr;
  border-bottom: 1px solid #ddd; padding: .6rem 0 } td { border: 0; padding: .1rem .6rem }
  td:first-child { grid-row: 1 / 6; padding: 0 } td.number { text-align: left }
  td:last-child { grid-column: 1 / 3; padding: .3rem 0 }
  td[data-name]::before { content: attr(data-name) " "; color: #666 } .bars { min-width: 0 } }
"""
_BODY = """<h1>Suspect labels</h1>
<p>The {shown} of {all} labelled rows of <b>{split}</b> whose human label the experts deny most: its score
is furthest below the highest, scores being for equally frequent expressions. A suspect is not a mistake yet: look at
the face.<br>
<span class="key" style="background:#0072B2"></span> score of an expression
<span class="key" style="background:#E69F00"></span> score of the human label</p>
<table><thead><tr><th>face<th>image<th>human label<th>experts<th class="number">rank<th class="number">margin
<th>soft label</tr></thead><tbody>
{rows}
</tbody></table>"""


@dataclass
class SuspectArguments:
    soft_labels: str = field(metadata={"help": "Folder that label.py wrote."})
    output_file: str = field(metadata={"help": "The page, e.g. suspects.html; suspects.csv is written beside it."})
    split: str = field(default="train", metadata={"help": "Which split."})
    num_faces: int = field(default=100, metadata={"help": "How many rows."})


def main():
    data_args, args = parse_arguments(DataArguments, SuspectArguments, description=__doc__.split("\n\n")[0])
    try:
        rows = load_rows(data_args)
        if args.split not in rows:
            raise ValueError(f"The dataset has no split {args.split!r}, only {', '.join(rows)}: see --split.")
        split = split_to_label(rows[args.split], data_args)
        soft_label = for_equal_frequencies(args.soft_labels, read_soft_labels(args.soft_labels, split))
    except (ValueError, OSError) as error:
        exit_with_error(error)
    table, labelled = suspects(split, soft_label, args.num_faces)
    output_file = Path(args.output_file)
    output_file.parent.mkdir(parents=True, exist_ok=True)
    table.drop(columns=["row"]).to_csv(output_file.with_suffix(".csv"), index=False)
    try:
        output_file.write_text(page(split, soft_label, table, labelled), encoding="utf-8")
    except ImageError as error:
        exit_with_error(error)
    print(f"Page: {output_file}, table: {output_file.with_suffix('.csv')}")


def for_equal_frequencies(folder: str, scores: np.ndarray) -> np.ndarray:
    """The scores (N, 8) of label.py's folder, brought from the prior that its label.json names to a balanced one; as
    they are where it names none."""
    settings = Path(folder) / "label.json"
    prior = json.loads(settings.read_text()).get("prior") if settings.is_file() else None
    if not isinstance(prior, dict):
        return scores
    return reexpress(scores, [prior[name] for name in EXPRESSIONS], np.full(len(EXPRESSIONS), 1 / len(EXPRESSIONS)))


def suspects(split: Split, soft_label: np.ndarray, number: int) -> tuple[pd.DataFrame, int]:
    """The rows whose label the scores deny most, and how many rows have a label."""
    rows = np.flatnonzero(split.labels >= 0)
    labels, scores = split.labels[rows], soft_label[rows]
    of_human = scores[np.arange(len(rows)), labels]
    table = pd.DataFrame(
        {
            "row": rows,
            "split": split.name,
            "image_id": split.ids[rows],
            "human_label": [EXPRESSIONS[label] for label in labels],
            "experts": [EXPRESSIONS[best] for best in scores.argmax(axis=1)],
            "rank": ranks_of(scores, labels),
            "margin": (scores.max(axis=1) - of_human).round(4),
        }
    )
    return table.sort_values(["margin", "rank"], ascending=False, kind="stable").head(number), len(rows)


def page(split: Split, soft_label: np.ndarray, table: pd.DataFrame, labelled: int) -> str:
    rows = [
        f"<tr><td>{pages.face(split, row.row)}<td>{html.escape(row.image_id)}"
        f'<td data-name="human">{row.human_label}<td data-name="experts">{row.experts}'
        f'<td class="number" data-name="rank">{row.rank}<td class="number" data-name="margin">{row.margin:.2f}'
        f"<td>{pages.bars(soft_label[row.row], row.human_label)}</tr>"
        for row in table.itertuples()
    ]
    shown = {"shown": len(table), "all": f"{labelled:,}", "split": html.escape(split.name), "rows": "\n".join(rows)}
    return pages.page("Suspect labels", _BODY.format(**shown), _STYLE)


if __name__ == "__main__":
    main()
