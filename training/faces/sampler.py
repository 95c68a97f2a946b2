"""Which row is drawn when."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class PermutationSampler(Sampler):
    """A seeded stream of draws from groups of rows: one group is all rows shuffled, an expression's rows and the others
    in turn are a balanced sampler.

    `turns` says how often each group is drawn in one round, once each by default; within a round, groups come as evenly
    as can be. Each group runs through a new permutation of its rows before any comes again. Draw k depends on (seed, k)
    alone, so a run that was interrupted after `start` draws goes on with the very next one, whatever the number of
    workers. Yields (row, augmentation seed).
    """

    def __init__(
        self, groups: list[np.ndarray], seed: int, num_draws: int, start: int = 0, turns: Sequence[int] | None = None
    ):
        self.groups, self.seed, self.num_draws, self.start = groups, seed, num_draws, start
        turns = turns or [1] * len(groups)
        places = [((turn + 0.5) / count, group, turn) for group, count in enumerate(turns) for turn in range(count)]
        self.turns, self.round = turns, [(group, turn) for _, group, turn in sorted(places)]

    def __len__(self) -> int:
        return self.num_draws - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        permutations: list[tuple[int, np.ndarray | None]] = [(-1, None)] * len(self.groups)
        for draw in range(self.start, self.num_draws):
            rounds, place = divmod(draw, len(self.round))
            group, turn = self.round[place]
            number, place = divmod(rounds * self.turns[group] + turn, len(self.groups[group]))
            if permutations[group][0] != number:
                shuffled = np.random.default_rng((self.seed, group, number)).permutation(self.groups[group])
                permutations[group] = (number, shuffled)
            yield int(permutations[group][1][place]), self.seed * 1_000_003 + draw
