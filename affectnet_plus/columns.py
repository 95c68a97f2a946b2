"""The columns of every configuration, and what is to be said of the data."""

import datasets

from .expressions import ANGLES, ETHNICITIES, EXPRESSIONS, GENDERS, SUBSETS
from .ferplus import VOTES

_ACCESS = {
    "homepage": "http://mohammadmahoor.com/pages/databases/affectnet/",
    "license": """\
The images and annotations are for research only, and the AffectNet team grants access on a signed agreement \
(see the homepage). They are read from your own copy; this package ships none of them, and its own licence does not \
extend to them.""",
}
AFFECTNET_PLUS = {
    "description": """\
AffectNet+: face crops in the wild, each with a soft label: eight independent confidences that say how far each \
expression is present at once. They do not sum to one. Rows also have a human label, a difficulty subset, age, \
gender, ethnicity, head pose, facial landmarks, valence and arousal.""",
    "citation": """\
@article{fard2025affectnetplus,
  title   = {AffectNet+: A Database for Enhancing Facial Expression Recognition with Soft-Labels},
  author  = {Fard, Ali Pourramezan and Hosseini, Mohammad Mehdi and Sweeny, Timothy D. and Mahoor, Mohammad H.},
  journal = {IEEE Transactions on Affective Computing},
  year    = {2025},
  url     = {https://arxiv.org/abs/2410.22506}
}""",
    **_ACCESS,
}
AFFECTNET = {
    "description": """\
AffectNet, in a release before AffectNet+: faces in the wild, each with one of eight expressions, facial landmarks, \
valence and arousal. It has no soft labels.""",
    "citation": """\
@article{mollahosseini2019affectnet,
  title   = {AffectNet: A Database for Facial Expression, Valence, and Arousal Computing in the Wild},
  author  = {Mollahosseini, Ali and Hasani, Behzad and Mahoor, Mohammad H.},
  journal = {IEEE Transactions on Affective Computing},
  volume  = {10},
  number  = {1},
  pages   = {18--31},
  year    = {2019},
  url     = {https://arxiv.org/abs/1708.03985}
}""",
    **_ACCESS,
}
FERPLUS = {
    "description": """\
FER+: the 48 x 48 grey faces of FER2013 with ten people's votes on eight expressions; the soft label is the share of \
each.""",
    "citation": """\
@inproceedings{barsoum2016ferplus,
  title     = {Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution},
  author    = {Barsoum, Emad and Zhang, Cha and Canton Ferrer, Cristian and Zhang, Zhengyou},
  booktitle = {ACM International Conference on Multimodal Interaction},
  year      = {2016},
  url       = {https://arxiv.org/abs/1608.01041}
}""",
    "homepage": "https://github.com/microsoft/FERPlus",
    "license": """\
The votes are Microsoft's, under the MIT licence. The images are those of FER2013 (Goodfellow et al., 2013), for \
research; this package ships none of them, and its own licence does not extend to them.""",
}
# By configuration; every other one is of AffectNet+.
_ABOUT = {"affectnet_2021": AFFECTNET, "affectnet_2017": AFFECTNET, "ferplus": FERPLUS}


def about(config_name: str) -> dict[str, str]:
    """`description`, `citation`, `homepage` and `license` of the data that a configuration reads."""
    return _ABOUT.get(config_name, AFFECTNET_PLUS)


def features(categories: tuple[str, ...] = EXPRESSIONS, votes: bool = False) -> datasets.Features:
    """The columns of every configuration. What a row lacks is null.

    - `image`: the face crop, 224 x 224 in AffectNet. The table holds its path, and its bytes only where the release
      has no file of the face itself.
    - `image_id`: N of images/N.jpg, or the row of a CSV file. It repeats across splits: a row is known by (split,
      image_id).
    - `label`: the human label, but that of a network in the split automatically_annotated of the release of 2017.
      Null without any.
    - `soft_label`: (8,) in the order of `EXPRESSIONS`, each in [0, 1] and independent: they do not sum to one.
    - `subset`: the rank of the human label among the soft label's scores (1 easy, 2-3 challenging, 4-8 difficult).
    - `age`: whole years. `gender`, `ethnicity`: a score in [0, 1] per class that sums to about one.
    - `head_pose`: the released numbers, seen in [-0.45, 0.39]. Their unit is not documented; they are not degrees.
    - `landmarks_68`, `landmarks_29`: (68, 2) and (29, 2) of (x, y), pixels of the crop; some lie outside it.
      The 29 are null unless the file has 58 plain numbers, as their layout is not documented.
    - `valence`, `arousal`: [-1, 1]. The release's -2 means not available and is null here.
    - `votes` (FER+ only): how many of ten people chose each expression, "unknown" and "not a face". `soft_label` is
      the share of each expression among the votes for one, and sums to one there.

    Array2D gives whole batches of landmarks as one array, 100 times as fast as nested lists do.
    """
    score = datasets.Value("float32")
    columns = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=list(categories)),
            "soft_label": datasets.List(score, length=len(EXPRESSIONS)),
            "subset": datasets.ClassLabel(names=list(SUBSETS)),
            "age": datasets.Value("int32"),
            "gender": dict.fromkeys(GENDERS, score),
            "ethnicity": dict.fromkeys(ETHNICITIES, score),
            "head_pose": dict.fromkeys(ANGLES, score),
            "landmarks_68": datasets.Array2D((68, 2), "float32"),
            "landmarks_29": datasets.Array2D((29, 2), "float32"),
            "valence": score,
            "arousal": score,
        }
    )
    if votes:
        columns["votes"] = dict.fromkeys(VOTES, datasets.Value("int32"))
    return columns
