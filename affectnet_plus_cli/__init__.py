"""The command `affectnet-plus`. It is no part of `affectnet_plus`, whose import takes a second: `--help` needs none of
it."""

import argparse
import os
import signal
import sys

LAYOUTS = ("plus", "2021", "2017")
VALIDATION_FREQUENCIES = ("balanced", "train")
_WRITTEN_TO = ("root", "out", "json", "output", "annotate", "plot", "export")
_NOTHING_KEPT = "Nothing of it is kept: give the same command again."


def main(argv: list[str] | None = None) -> None:
    """Exit status 2, and one line, where the input is wrong."""
    parser = argparse.ArgumentParser(prog="affectnet-plus", description="Work with AffectNet+ releases.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_synthesize(commands)
    _add_check(commands)
    _add_describe(commands)
    _add_export(commands)
    _add_predict(commands)
    _add_app(commands)
    _add_export_onnx(commands)
    args = vars(parser.parse_args(argv))
    run, kept = args.pop("run"), args.pop("kept")
    try:
        from affectnet_plus.releases import files, processes, writing
    except KeyboardInterrupt:
        _exit_interrupted(kept)
    try:
        for word in sys.argv[1:] if argv is None else argv:
            files.check_utf8(word)
        with processes.interruptible():
            status = run(**args)
        parser.exit(status)
    except (Exception, KeyboardInterrupt) as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in writing.causes(error)):
            processes.ignore_interrupts()
            _exit_interrupted(kept)
        if writing.is_no_room(error):
            places = [args[name] for name in _WRITTEN_TO if isinstance(args.get(name), str)]
            parser.exit(2, f"affectnet-plus: error: {writing.no_room(error, places)} {kept}\n")
        if not isinstance(error, (ValueError, OSError, ImportError)):
            raise
        parser.exit(2, f"affectnet-plus: error: {error}\n")


def _exit_interrupted(kept: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
    sys.stderr.write(f"affectnet-plus: interrupted. {kept}\n")
    sys.exit(130)


def _add_synthesize(commands) -> None:
    command = commands.add_parser(
        "synthesize",
        help="write a licence-free release to try everything on",
        description="Write a licence-free release of drawn faces, in the layout of AffectNet+ or of an older release, "
        "with the truth beside it (ROOT/ground_truth.parquet). Same seed, same bytes; same faces in every layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("root", metavar="ROOT", help="the release folder to write")
    command.add_argument("--train", metavar="N", type=int, default=2000, help="pairs in the training set")
    command.add_argument("--validation", metavar="M", type=int, default=400, help="pairs in the validation set")
    command.add_argument(
        "--validation_frequencies", choices=VALIDATION_FREQUENCIES, default="balanced",
        help="the classes of the validation set: all alike, as in AffectNet, or as in the training set",
    )  # fmt: skip
    command.add_argument("--unannotated", metavar="K", type=int, default=0, help="pairs without human annotation")
    command.add_argument("--layout", choices=LAYOUTS, default="plus", help="AffectNet+, or AffectNet of 2021 or 2017")
    command.add_argument("--seed", metavar="S", type=int, default=0, help="another seed, other faces")
    command.add_argument("--num_proc", metavar="P", type=int, default=os.cpu_count(), help="processes")
    command.add_argument("--image_size", metavar="PIXELS", type=int, default=224, help="width and height of a crop")
    command.set_defaults(run=_synthesize, kept=_NOTHING_KEPT)


def _synthesize(root: str, **options) -> None:
    try:  # here, because drawing needs libraries that reading does not
        from affectnet_plus.synthetic import synthesize
    except ModuleNotFoundError as error:
        cure = 'pip install "affectnet-plus[synthetic]"'
        raise ValueError(f"Drawing faces needs {error.name}, which is not installed: {cure}.") from error
    synthesize(root, **options)


def _add_check(commands) -> None:
    command = commands.add_parser(
        "check",
        help="tell whether a copy of a release is whole",
        description="Read everything in a release of AffectNet+, AffectNet (2021, 2017) or FER+, and tell what is "
        "there, what is missing or broken, and whether downloading it again would help. Exit status: 0 whole, 1 not, "
        "2 no such release.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("root", metavar="ROOT", help="the release folder, or the folder it lies in")
    command.add_argument("--json", metavar="FILE", help="also write the counts and every single problem to this file")
    command.add_argument("--num_proc", metavar="P", type=int, default=os.cpu_count(), help="processes")
    command.set_defaults(run=_check, kept=_NOTHING_KEPT)


def _check(root: str, json: str | None, num_proc: int) -> int:
    from affectnet_plus.releases.check import check

    findings = check(root, num_proc, json)
    print(findings.page())
    return 0 if findings.whole else 1


def _add_describe(commands) -> None:
    command = commands.add_parser(
        "describe",
        help="show what is in a release or any other dataset, on one page",
        description="Write a page and a JSON file of what a dataset holds: rows by split and category, soft labels and "
        "how they go together, valence and arousal, who is shown, duplicates, and what `check` finds. Of a release "
        "(AffectNet+, AffectNet, FER+), an export, or any dataset of faces.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("root", metavar="ROOT", nargs="?", help="the release folder, or the folder it lies in")
    command.add_argument("--output", metavar="FILE.html", required=True, help="the page")
    command.add_argument("--json", metavar="FILE", help="the numbers (default: FILE.json beside the page)")
    command.add_argument(
        "--faces", action="store_true",
        help="put thumbnails into the page: faces from easy to difficult, near-duplicates, landmarks. Keep pages of "
        "restricted faces to yourself",
    )  # fmt: skip
    command.add_argument(
        "--dataset_name", metavar="D", help="instead of a release: a Hub id or folder for `load_dataset`"
    )
    command.add_argument(
        "--dataset_config_name",
        metavar="C",
        help="configuration, e.g. no_human_annotated (default: all rows that people looked at)",
    )
    command.add_argument("--image_column_name", metavar="COLUMN", default="image", help="column of the face")
    command.add_argument("--label_column_name", metavar="COLUMN", default="label", help="column of the human label")
    command.add_argument(
        "--label_order", metavar="NAME", nargs="+", default=[],
        help="of a dataset that only numbers its classes: their names in order, or one of affectnet, raf-db ...",
    )  # fmt: skip
    command.add_argument("--num_proc", metavar="P", type=int, default=os.cpu_count(), help="processes")
    command.set_defaults(run=_describe, kept=_NOTHING_KEPT)


def _describe(root: str | None, dataset_name: str | None, json: str | None, **options) -> None:
    if root and dataset_name:
        raise ValueError("ROOT is a release, --dataset_name any other dataset: give one of them.")
    try:  # here, because figures need libraries that reading does not
        from affectnet_plus.training.reports.description import describe
    except ModuleNotFoundError as error:
        cure = 'pip install "affectnet-plus[train]"'
        raise ValueError(f"Describing needs {error.name}, which is not installed: {cure}.") from error
    describe(root, json_file=json, dataset_name=dataset_name, **options)


def _add_export(commands) -> None:
    command = commands.add_parser(
        "export",
        help="write a release as Parquet that `datasets` reads without this package",
        description="Write a release of AffectNet+, AffectNet (2021, 2017) or FER+ as Parquet files with the images "
        "inside, and a dataset card. Killed, it goes on where it stopped when the same command is given again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("root", metavar="ROOT", help="the release folder, or the folder it lies in")
    command.add_argument("out", metavar="OUT", help="the folder to write")
    command.add_argument("--push", metavar="REPO", help="then upload OUT to this private dataset repository of the Hub")
    command.add_argument("--on_error", choices=("raise", "skip"), default="raise", help="what to do at a broken row")
    command.add_argument("--num_proc", metavar="P", type=int, default=os.cpu_count(), help="processes")
    command.add_argument("--rows_per_file", metavar="N", type=int, default=10_000, help="rows of one Parquet file")
    command.set_defaults(run=_export, kept="Whole files are kept: the same command goes on after them.")


def _export(**options) -> None:
    from affectnet_plus.releases.export import export

    export(**options)


def _add_predict(commands) -> None:
    command = commands.add_parser(
        "predict",
        help="find the faces in pictures and videos, and write a row for each",
        description="Find the faces in pictures, videos and folders of them, and write a row for each: source, frame, "
        "time, box, eight scores, their distribution, label, compound, valence and arousal where the model has them. "
        "Killed, it goes on where it stopped when the same command is given again. Exit status: 0 all read, 1 not all, "
        "2 nothing done.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("files", metavar="FILE_OR_FOLDER", nargs="+", help="pictures, videos, and folders of them")
    command.add_argument("--output", metavar="FILE", required=True, help="FILE.jsonl, FILE.csv or FILE.parquet")
    command.add_argument(
        "--model", metavar="M", help="folder or Hub id of one of our models, or FILE.onnx (default: the bundled one)"
    )
    command.add_argument("--device", metavar="D", help="cpu, cuda:0 ... (default: the best there is)")
    command.add_argument(
        "--faces", choices=("detect", "crop"), default="detect", help="in pictures: find faces, or they are crops"
    )
    command.add_argument(
        "--face_detector", metavar="F", default="default", help="default, or MODULE:NAME of a callable"
    )
    command.add_argument("--every", metavar="N", type=int, default=5, help="frames of a video per detection")
    command.add_argument(
        "--smoothing", metavar="S", type=float, default=0.0, help="of scores over frames, 0 to below 1"
    )
    command.add_argument(
        "--batch_size", metavar="B", type=int, default=16, help="faces that the network sees at a time"
    )
    command.add_argument("--annotate", metavar="FOLDER", help="write pictures and videos with boxes and bars there")
    command.add_argument("--plot", metavar="FILE.html", help="draw videos' expressions over time; a .png beside it")
    command.set_defaults(run=_predict, kept="Files that are done are kept: the same command goes on after them.")


def _predict(**options) -> int:
    from affectnet_plus.inference.predict import predict  # here, because it may import torch

    return predict(**options)


def _add_app(commands) -> None:
    command = commands.add_parser(
        "app",
        help="look at photographs and videos in a browser",
        description="Serve a page that finds the faces in photographs, of the camera, too, and in videos: boxes, eight "
        "bars each, compounds, timelines, rows to download. Nothing leaves the machine, and nobody else reaches it "
        "unless --host says so.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--model", metavar="M", help="folder or Hub id of one of our models, or FILE.onnx (default: the bundled one)"
    )
    command.add_argument("--device", metavar="D", help="cpu, cuda:0 ... (default: the best there is)")
    command.add_argument(
        "--face_detector", metavar="F", default="default", help="default, or MODULE:NAME of a callable"
    )
    command.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="0.0.0.0 opens it to the network")
    command.add_argument("--port", metavar="P", type=int, help="(default: the first that is free, from 7860)")
    command.add_argument("--export", metavar="DIR", help="write it as a Space of the Hub, in place of serving it")
    command.set_defaults(run=_app, kept="The page is closed.")


def _app(**options) -> None:
    try:  # here, because pages need libraries that nothing else does
        from affectnet_plus.inference.app import app
    except ModuleNotFoundError as error:
        cure = 'pip install "affectnet-plus[app]"'
        raise ValueError(f"The app needs {error.name}, which is not installed: {cure}.") from error
    app(**options)


def _add_export_onnx(commands) -> None:
    command = commands.add_parser(
        "export-onnx",
        help="write a model as a file for ONNX Runtime, which needs no PyTorch",
        description="Write one of our models as an ONNX file of any batch size, with labels, normalisation and framing "
        "in its metadata, for `predict --model FILE.onnx` and pipeline('soft-fer', model='FILE.onnx'). Its scores are "
        "compared with PyTorch's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of one of our models")
    command.add_argument("output", metavar="FILE.onnx", help="the file to write")
    command.add_argument(
        "--int8", action="store_true",
        help="weights of eight bits: a quarter of the size, other scores, and slower where layers are convolutions",
    )  # fmt: skip
    command.set_defaults(run=_export_onnx, kept=_NOTHING_KEPT)


def _export_onnx(**options) -> None:
    from affectnet_plus.inference.export_onnx import export_onnx  # here, because it imports torch

    export_onnx(**options)
