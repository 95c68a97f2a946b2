"""Networks are independent of each other: processes of one launch may each train their own (`--jobs expressions`).

All deal the same list in the same way, so nothing has to be said among them.
"""

import os
from dataclasses import dataclass

from affectnet_plus import EXPRESSIONS
from affectnet_plus.training.faces import Split
from affectnet_plus.training.loop.initial_weights import WARM_START


@dataclass(frozen=True)
class Share:
    """This process among those of the launch that train networks of their own."""

    rank: int
    processes: int


def share_of_jobs(jobs: str, args) -> Share | None:
    """None where all processes train each network together; `ValueError` where OptimizationArguments say what no one
    process can do."""
    if jobs == "ddp":
        return None
    if args.push_to_hub:
        raise ValueError(
            "--push_to_hub: with --jobs expressions no process has the whole model. Push once all are done, by the "
            "same flags without --jobs and with --resume_from_checkpoint latest."
        )
    if args.resume_from_checkpoint not in (None, "latest"):
        raise ValueError("--resume_from_checkpoint FOLDER is of one network: with --jobs expressions say 'latest'.")
    share = Share(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if args.cache_images == "memory" and share.processes > 1:
        raise ValueError(
            "--cache_images memory: with --jobs expressions processes share no memory. Take --cache_images disk, whose "
            "files they share."
        )
    return share


def own_networks(share: Share | None, names: list[str], folds: list[Split], args, kind_args) -> list[list[str]]:
    """Of each fold, of which these are the training rows, the names of the networks that this process trains, longest
    first; `WARM_START` comes before them where others wait for this process to train it."""
    if share is None:
        return [list(names) for _ in folds]

    def draws(epochs: float, rows: int) -> float:
        return 1.0 if args.max_train_steps else epochs * rows

    def epoch_of(name: str, rows: Split) -> int:
        return len(rows) if name == "all" else 2 * int((rows.labels == EXPRESSIONS.index(name)).sum())

    experts = [{name: draws(args.num_train_epochs, epoch_of(name, rows)) for name in names} for rows in folds]
    epochs = kind_args.warm_start_epochs
    warm_starts = [draws(epochs, len(rows)) if epochs else 0.0 for rows in folds]
    dealt = deal(experts, warm_starts, share.processes)[share.rank]
    return [[name for number, name in dealt if number == fold] for fold in range(len(folds))]


def deal(networks: list[dict[str, float]], warm_starts: list[float], processes: int) -> list[list[tuple[int, str]]]:
    """Deal out what is to be trained so that all processes end at about the same time.

    Args:
        networks: Of each fold {name: how long it takes}.
        warm_starts: Of each fold how long that takes which its networks have to wait for; 0: they need not.
        processes: How many there are.

    Returns:
        For each process (fold, name), in the order in which it trains them, warm starts first.
    """
    dealt: list[list[tuple[int, str]]] = [[] for _ in range(processes)]
    ends, ready = [0.0] * processes, []
    for fold, time in enumerate(warm_starts):
        process = fold % processes
        ends[process] += time
        ready.append(ends[process] if time else 0.0)
        if time:
            dealt[process].append((fold, WARM_START))
    waiting = [(ready[fold], -time, fold, name) for fold, times in enumerate(networks) for name, time in times.items()]
    for begin, time, fold, name in sorted(waiting):
        process = min(range(processes), key=lambda p: (max(ends[p], begin), (p - fold) % processes))
        ends[process] = max(ends[process], begin) - time
        dealt[process].append((fold, name))
    return dealt
