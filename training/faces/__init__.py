"""The faces: splits of any dataset, folds, what is drawn when, and how a network is shown it."""

from .augmentation import Augmentation, timm_policy
from .corrections import described_corrections
from .dataset import FaceDataset, loader_settings
from .describing import label_counts, split_to_describe
from .face_cache import create_caches, open_cache
from .folder import images_in
from .loading import check_enough_rows, load_rows, load_split, load_splits, split_to_label
from .sampler import PermutationSampler
from .soft_label_files import (
    columns_of,
    expressions_of,
    files_of,
    known_truth,
    read_file,
    read_soft_labels,
    soft_labels_to_compare,
)
from .soft_label_tables import is_table
from .split import Split, broken_images, indices_among
