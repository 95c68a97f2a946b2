#!/usr/bin/env python
"""A picture of a model at work: faces with a bar for each expression, prediction beside ground truth.

    python training/show_faces.py --model runs/ebc --data_dir R --images photo.jpg --output_file faces.png
    python training/show_faces.py --images photo.jpg --num_faces 0 --output_file faces.png   # the bundled model

Shows the faces in any images of your own and validation faces, some of each expression. Ground truth is what a
synthetic release knows of its faces, else the dataset's own soft label. Keep pictures of restricted faces to yourself.
"""

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from affectnet_plus import EXPRESSIONS, match_expressions
from affectnet_plus.modeling import BUNDLED_MODEL, FACES, crop_face, find_faces, load_rgb, read_pipeline
from affectnet_plus.releases.writing import written_whole
from affectnet_plus.training.arguments import (
    NOTHING_KEPT,
    DataArguments,
    exit_on_error,
    parse_arguments,
    run_script,
)
from affectnet_plus.training.faces import known_truth, load_split
from affectnet_plus.training.reports import figures


@dataclass
class ShowArguments:
    """What is shown."""

    output_file: str = field(metadata={"help": "The picture, e.g. faces.png."})
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of one of our models. Default: the bundled model."}
    )
    images: list[str] = field(default_factory=list, metadata={"help": "Images of your own, shown first."})
    faces: str = field(
        default="detect",
        metadata={
            "help": "What --images are: photographs, in which faces are found (needs affectnet-plus[faces]), or face "
            "crops.",
            "choices": list(FACES),
        },
    )
    num_faces: int = field(
        default=16, metadata={"help": "Validation faces, spread over the expressions; 0 needs no dataset."}
    )
    seed: int = field(default=0, metadata={"help": "Which faces."})

    def __post_init__(self):
        if self.num_faces < 0 or not (self.num_faces or self.images):
            raise ValueError("There is nothing to show: give --images, or --num_faces above 0 and a dataset.")


def main():
    data_args, args = parse_arguments(DataArguments, ShowArguments, description=__doc__.split("\n\n")[0])
    with exit_on_error():
        fer = read_pipeline(args.model or str(BUNDLED_MODEL), "--model", faces="crop")
        faces, titles = faces_in(args.images, fer, args.faces)
        truths, truth_name = [None] * len(faces), ""
        if args.num_faces:
            split = load_split(data_args, data_args.eval_split_name, with_soft_labels=True)
            rows = choose_rows(split.labels, args.num_faces, np.random.default_rng(args.seed))
            truth, truth_name = known_truth(split, data_args)
            faces += [split.image(row) for row in rows]
            titles += [f"labelled {EXPRESSIONS[split.labels[row]]}" for row in rows]
            truths += [None] * len(rows) if truth is None else list(truth[rows])
    predictions = fer(faces, batch_size=16)
    figure = draw(faces, titles, predictions, truths, truth_name)
    Path(args.output_file).parent.mkdir(parents=True, exist_ok=True)
    with exit_on_error(), written_whole(args.output_file) as beside:
        figure.savefig(beside, dpi=110)
    for title, prediction in zip(titles, predictions, strict=True):
        print(f"{title}: {prediction['label']} {prediction['score']:.2f}")
    print(f"Picture: {args.output_file}")


def faces_in(images: list[str], fer, faces: str) -> tuple[list[Image.Image], list[str]]:
    """The faces in image files, as crops that the model wants, and a title for each.

    Args:
        images: paths.
        fer: the pipeline whose model it is.
        faces: "detect", or "crop" where each image is one.

    Raises:
        ValueError: in none is a face.
    """
    pictures = [load_rgb(path) for path in images]
    if faces == "crop":
        return pictures, [Path(path).name for path in images]
    crops, titles = [], []
    for path, picture in zip(images, pictures, strict=True):
        found = find_faces(fer.face_detector, picture)
        if not found:
            print(f"{path}: no face found; --faces crop takes it as one.")
        for number, face in enumerate(found, start=1):
            crops.append(crop_face(picture, face, **fer.framing))
            titles.append(Path(path).name + (f", {number}" if len(found) > 1 else ""))
    if images and not crops:
        raise ValueError("No face found in any of --images; --faces crop takes them as face crops.")
    return crops, titles


def choose_rows(labels: np.ndarray, number: int, rng: np.random.Generator) -> list[int]:
    """Rows to show, in turn one of each expression.

    Args:
        labels: (N,) indices of expressions.
        number: how many rows.
        rng: which of each expression.

    Returns:
        At most `number` row numbers, those of one expression side by side.
    """
    shuffled = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        of_label = shuffled[labels[shuffled] == label]
        turn[of_label] = np.arange(len(of_label))
    return sorted(range(len(labels)), key=lambda row: (turn[row], labels[row]))[:number]


def draw(faces: list, titles: list[str], predictions: list[dict], truths: list, truth_name: str) -> Figure:
    """A grid of faces, each above the bars of its soft label.

    Args:
        faces: PIL images.
        titles: one for each.
        predictions: what the pipeline said of each.
        truths: for each, (8,) scores in [0, 1], NaN where unknown, or None.
        truth_name: what to call them; empty where there are none.
    """
    columns = min(6, len(faces))
    rows = -(-len(faces) // columns)
    figure = Figure(figsize=(2.6 * columns, 4.3 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subfigures(rows, columns, squeeze=False).ravel()
    names = list(predictions[0]["soft_label"])
    places = np.arange(len(names))
    for cell, face, title, prediction, truth in zip(grid, faces, titles, predictions, truths, strict=False):
        picture, bars = cell.subplots(2, 1, height_ratios=[1, 1])
        picture.imshow(face)
        picture.set_axis_off()
        picture.set_title(title, fontsize=9)
        scores = [prediction["soft_label"][name] for name in names]
        bars.barh(places - (0.2 if truth is not None else 0), scores, 0.4, color=figures.BLUE)
        if truth is not None:
            bars.barh(places + 0.2, truth[match_expressions(names)], 0.4, color=figures.ORANGE)
        bars.set_yticks(places, names, fontsize=8)
        bars.set_xlim(0, 1)
        bars.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
        bars.set_xlabel("score", fontsize=8)
        bars.invert_yaxis()
        bars.spines[["top", "right"]].set_visible(False)
    meanings = {figures.BLUE: "predicted soft label"} | ({figures.ORANGE: truth_name} if truth_name else {})
    patches = [plt.Rectangle((0, 0), 1, 1, color=color) for color in meanings]
    figure.legend(patches, list(meanings.values()), loc="outside lower center", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    run_script(main, NOTHING_KEPT)
