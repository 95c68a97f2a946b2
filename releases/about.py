"""What is to be said of the data of each release: what it is, who made it, whose terms apply."""

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
