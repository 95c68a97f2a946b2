"""Weights to start from (--init_from): read, checked against the folds, and put into backbones."""

import hashlib
import pickle
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from affectnet_plus import EXPRESSIONS
from affectnet_plus.modeling import backbones_of, create_backbone, pretrained_normalization, read_config
from affectnet_plus.training.arguments import read_record

WARM_START = "warm_start"  # folder of the classifiers that experts go on from, inside the experts' own
_WEIGHTS = "model.safetensors"
_POWER_OF_SHARES = {"none": 1, "square_root": 0.5, "balanced": 0}  # of an expression's number, as samplers draw
_PREFIX = "backbone."  # of the network's own weights in a folder of train_soft_fer.py
_CURE = "copy or train that model anew"
_DATA_PARALLEL = "module."  # before all names, where torch.nn.DataParallel held the model


def backbones_in(network: nn.Module) -> list[nn.Module]:
    """The timm models in a network, as `backbones_of` names them."""
    if hasattr(network, "classifiers"):
        return list(network.classifiers)
    return [getattr(network, "backbone", network)]


def normalization_of_start(args, backbones: list[str]) -> list[dict | None] | None:
    """For a config's `backbone_normalization`: what the weights that `args` (NetworkArguments) start each of these
    backbones from were trained with; None where that is the image processor's, or unknown (a file of weights alone)."""
    if args.pretrained:
        return pretrained_normalization(backbones)
    paths = args.init_from * len(backbones) if len(args.init_from) == 1 else args.init_from
    if len(paths) != len(backbones):  # `read_weights` says so
        return None
    found = []
    for number, path in enumerate(paths):
        folds = sorted(Path(path).glob("fold-*"))[:1]  # alike in this
        found.append(_normalization_in(_own_folder(*folds or [Path(path)], number, backbones, {})))
    return found if any(found) else None


def _normalization_in(path: Path) -> dict | None:
    config = _config_in(path.parent if path.name == _WEIGHTS else path)
    if of_timm := config.get("pretrained_cfg"):  # one of timm's own folders
        return {key: of_timm[key] for key in ("mean", "std")} if {"mean", "std"} <= of_timm.keys() else None
    return (config.get("backbone_normalization") or [None])[0]


def _config_in(folder: Path) -> dict:
    """The config of a model there, of ours or somebody else's; {} where there is none."""
    if not (file := folder / "config.json").is_file():
        return {}
    objects = dict.fromkeys(("id2label", "training", "pretrained_cfg"), (dict, NoneType))
    others = {"backbone_normalization": (list, NoneType), "transformers_weights": (str, NoneType)}
    config = read_record(file, _CURE, **objects, **others)
    if str(config.get("model_type")).startswith("affectnet_plus_"):
        read_config(folder)  # looks at all of it
    return config


def read_weights(paths: list[str], config, settings: dict) -> list[dict]:
    """Per backbone of a model with this config {"path", "description", "state" of all but its last layer, "last" layer
    if it is a softmax of the expressions, "sampler" that it was trained by}; [] without `paths`.

    `ValueError` where there is nothing to read, where it is of another network, or where cross-fitting would be undone:
    weights that were trained on the rows which a fold leaves out.
    """
    if not paths:
        return []
    backbones = backbones_of(config)
    if len(paths) not in (1, len(backbones)):
        raise ValueError(
            f"--init_from names {len(paths)} weights for {len(backbones)} backbones ({' '.join(backbones)}): "
            "give one for each, or one for all."
        )
    of_each = paths if len(paths) > 1 else paths * len(backbones)
    folders = [_own_folder(Path(path), number, backbones, settings) for number, path in enumerate(of_each)]
    pairs = list(zip(folders, backbones, strict=True))
    read = {pair: _for_backbone(_read(pair[0], settings, config), pair[1], config.network_size) for pair in set(pairs)}
    normalization = config.backbone_normalization or [None] * len(backbones)
    for path, wanted in zip(folders, normalization, strict=True):
        if (trained := _normalization_in(path)) != wanted:
            raise ValueError(
                f"--init_from {path} was trained with the normalisation {trained or 'of the image processor'}, and "
                f"backbone_normalization says {wanted}: continue it with the same."
            )
    return [read[pair] for pair in pairs]


def _own_folder(path: Path, number: int, backbones: list[str], settings: dict) -> Path:
    """The folder of the fold in question, where `path` has folds, and in a folder of experts that of the classifier
    which their warm start made of the same backbone."""
    fold = settings.get("left_out_fold")
    if fold is not None and (path / f"fold-{fold}").is_dir():
        path = path / f"fold-{fold}"
    if not (path / WARM_START).is_dir():
        return path
    same = sorted((path / WARM_START).glob(f"*-{backbones[number]}"), key=lambda p: int(p.name.partition("-")[0]))
    if not same:
        names = ", ".join(sorted(p.name.partition("-")[2] for p in (path / WARM_START).iterdir()))
        raise ValueError(f"--init_from {path} has no warm start of {backbones[number]}, only of {names}.")
    return same[backbones[:number].count(backbones[number]) % len(same)]


def _read(path: Path, settings: dict, wanted) -> dict:
    config = _config_in(path)
    file = path / (config.get("transformers_weights") or _WEIGHTS) if path.is_dir() else path
    if not file.is_file():
        folds = ", which has folds: give --num_folds as well" if list(path.glob("fold-*")) else ""
        raise ValueError(f"--init_from {path}: no {_WEIGHTS} there{folds}.")
    if config.get("model_type") in ("affectnet_plus_ebc", "affectnet_plus_au", "affectnet_plus_fused"):
        raise ValueError(
            f"--init_from {path} holds experts without a warm start: name the folder that they started from."
        )
    expressions, sampler = None, "none"
    if config:  # ours, or one of timm's own folders
        _check_left_out(path, config.get("training") or {}, settings)
        if config.get("activation", "softmax") == "softmax":  # others than ours do not say
            expressions = list((config.get("id2label") or {}).values())
        sampler = (config.get("training") or {}).get("all", {}).get("sampler", sampler)
        if str(config.get("model_type")).startswith("affectnet_plus"):
            _check_input(path, config, wanted)
    state = _state_in(file)
    if any(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): weight for name, weight in state.items() if name.startswith(_PREFIX)}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    description = f"{path.name} (sha256 {digest})"
    return {"path": path, "state": state, "expressions": expressions, "sampler": sampler, "description": description}


def _state_in(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, as the network itself calls them. Of a pickle, nothing but tensors is ever unpickled."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"--init_from {file} holds other objects than tensors, perhaps a whole pickled model, and such files can "
            "run any code: save the weights alone where it was made, torch.save(model.state_dict(), ...)."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"--init_from {file} is damaged, or holds no weights: copy or save it anew.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(weight, torch.Tensor) for weight in state.values()):
        raise ValueError(f"--init_from {file} holds no weights by name: save a model's state_dict() in it.")
    if all(name.startswith(_DATA_PARALLEL) for name in state):
        state = {name.removeprefix(_DATA_PARALLEL): weight for name, weight in state.items()}
    return state


def _check_input(path: Path, config: dict, wanted) -> None:
    for flag in ("per_image_standardization", "grayscale"):
        given = config.get(flag, False)
        if given != getattr(wanted, flag):
            raise ValueError(
                f"--init_from {path} was trained {'with' if given else 'without'} --{flag}: "
                f"{'give it' if given else 'leave it out'} here, too."
            )


def _check_left_out(path: Path, training: dict, settings: dict) -> None:
    for record in training.values():
        same_rows = all(record.get(key) == settings[key] for key in ("data", "split", "ids"))
        of_fold = ("num_folds", "left_out_fold", "folds_by")
        wanted = [settings.get(key) for key in of_fold]
        folds_by = {"folds_by": "id"} if record.get("num_folds") else {}  # before it was recorded
        if same_rows and wanted[0] and [(folds_by | record).get(key) for key in of_fold] != wanted:
            raise ValueError(
                f"--init_from {path} was trained on rows that fold {wanted[1]} of {wanted[0]} leaves out: "
                f"train it with --num_folds {wanted[0]}, too."
            )


def _for_backbone(read: dict, name: str, image_size: int) -> dict:
    with torch.device("meta"):
        backbone = create_backbone(name, 1, image_size)
    last = _last_layers(backbone)
    state = {key: weight for key, weight in read["state"].items() if not key.startswith(last)}
    wanted = {key: weight.shape for key, weight in backbone.state_dict().items() if not key.startswith(last)}
    given = {key: weight.shape for key, weight in state.items()}
    if differing := sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key)):
        raise ValueError(
            f"--init_from {read['path']} holds no weights of {name} at {image_size} pixels: {differing[0]} differs, "
            f"the first of {len(differing)}. Backbone, --image_size and --upscale have to be those it had."
        )
    of_last = {key: weight for key, weight in read["state"].items() if key.startswith(last)}
    names = read["expressions"] or ["none"]
    ours = names == [name for name in EXPRESSIONS if name in names]
    return read | {"state": state, "last": of_last if ours else {}}


def _last_layers(backbone: nn.Module) -> tuple[str, ...]:
    names = backbone.pretrained_cfg["classifier"]
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def load_weights(network: nn.Module, weights: list[dict], config, name: str, labels: np.ndarray) -> None:
    """Put what `read_weights` gave into the network's backbones.

    The last layer starts at random, but where an expert has an output for every expression of the softmax that was read
    (`rest_outputs`, and its own): then it is that one's, the expression's row first, and shifted from the
    share that the expression had of the faces drawn then, by its frequency among the training `labels` and the sampler,
    to the half that it will be of those drawn now. On shared backbones every expression's head starts so.
    """
    heads = config.expressions if getattr(config, "shared_backbones", False) else [name]
    for backbone, read in zip(backbones_in(network), weights, strict=True):
        state = dict(read["state"])
        names = read["expressions"] or []
        if read["last"] and set(heads) <= set(names) and getattr(config, "rest_outputs", 0) == len(names) - 1:
            own = [names.index(head) for head in heads]
            order = [i for index in own for i in (index, *(i for i in range(len(names)) if i != index))]
            counts = np.array([(labels == EXPRESSIONS.index(other)).sum() for other in names])
            shares = np.where(counts > 0, counts ** _POWER_OF_SHARES[read["sampler"]], 0)
            shift = np.log(shares[own] / (shares.sum() - shares[own]))
            initial = backbone.state_dict()
            for key, rows in read["last"].items():  # (expressions, ...)
                state[key] = torch.cat([rows[order], initial[key][len(order) :]])  # then the units of AU experts
                if key.endswith("bias"):
                    state[key][: len(order) : len(names)] -= torch.from_numpy(shift).to(rows)
        backbone.load_state_dict(state, strict=False)
