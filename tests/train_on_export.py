"""A stranger's training: plain `datasets`, transformers' own Trainer, a stock timm model. Nothing of this package.

python train_on_export.py EXPORTED_FOLDER OUTPUT_DIR
"""

import sys

import numpy as np
import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, TimmWrapperConfig, Trainer, TrainingArguments

folder, output_dir = sys.argv[1:]
faces = load_dataset(folder)
names = faces["train"].features["label"].names
transform = v2.Compose(
    [v2.Resize((48, 48)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
)


def to_tensors(rows):
    return {"pixel_values": [transform(image.convert("RGB")) for image in rows["image"]], "labels": rows["label"]}


def accuracy(prediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(axis=1) == prediction.label_ids))}


torch.manual_seed(0)
config = TimmWrapperConfig(architecture="test_resnet", id2label=dict(enumerate(names)), num_labels=len(names))
trainer = Trainer(
    model=AutoModelForImageClassification.from_config(config),
    args=TrainingArguments(
        output_dir,
        num_train_epochs=3,
        learning_rate=4e-3,
        per_device_train_batch_size=16,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    ),
    train_dataset=faces["train"].with_transform(to_tensors),
    eval_dataset=faces["validation"].with_transform(to_tensors),
    compute_metrics=accuracy,
)
trainer.train()
print("accuracy", trainer.evaluate()["eval_accuracy"])
trainer.save_model(output_dir)
