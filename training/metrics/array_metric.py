"""An `evaluate.Metric` whose batches are NumPy arrays."""

import datasets
import evaluate
import numpy as np

INDEX = datasets.Value("int64")
SCORES = datasets.List(datasets.Value("float64"))


class ArrayMetric(evaluate.Metric):
    """Metric that keeps its batches as arrays until it is computed.

    `evaluate` writes every row to Arrow as Python objects and reads it back, which takes several times as long as the
    figures themselves. Several processes gather their rows first, as `accelerator.gather_for_metrics` does.
    """

    prediction = reference = SCORES  # features of one row

    def __init__(self, **kwargs):
        self._batches = []
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": self.prediction, "references": self.reference}),
        )

    def add_batch(self, *, predictions, references) -> None:
        """Remember some rows.

        Args:
            predictions: array, tensor or list with one item per row.
            references: the same, of equal length.

        Raises:
            ValueError: their lengths differ.
        """
        features = ((predictions, self.prediction), (references, self.reference))
        batch = [np.asarray(values, np.int64 if feature is INDEX else np.float64) for values, feature in features]
        if len(batch[0]) != len(batch[1]):
            raise ValueError(f"There are {len(batch[0])} predictions for {len(batch[1])} references.")
        self._batches.append(batch)

    def add(self, *, prediction, reference) -> None:
        """Remember one row."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(self, *, predictions=None, references=None) -> dict:
        """The figures of all rows remembered and of these, which are then forgotten.

        Raises:
            ValueError: there are no rows, or `predictions` and `references` differ in length.
        """
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        batches, self._batches = self._batches, []
        if not any(len(references) for _, references in batches):
            raise ValueError(f"{type(self).__name__} has no rows to compute from.")
        return self._compute(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
