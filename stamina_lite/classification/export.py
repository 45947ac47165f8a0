"""Export of a run of classes as a folder for timm and transformers, verified by loading it with both."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..core.seeds import Stream, seeded
from ..errors import UserError
from ..methods.heads import LinearHead
from ..runs.files import new_folder, write_json, write_tensors
from ..runs.verified import TOLERANCE, Verified, check_difference
from .backbones import load_backbone, model_args
from .image_files import resized_side
from .prediction import Predictor


def export_timm(predictor: Predictor, out: Path | str) -> Verified:
    """Write a stock ViT with a head for the learned classes: model.safetensors, config.json and README.md.

    `timm.create_model("local-dir:OUT", pretrained=True)` and transformers'
    `TimmWrapperForImageClassification.from_pretrained(OUT)` load it. The folder is created only after both have, and
    their logits equal those of the predictor.

    Args:
        out: the folder, new or empty.

    Raises:
        UserError: the method or the head has parts that a stock ViT lacks, or the folder exists or cannot be written.
        RuntimeError: stock code loads another model than was exported.
    """
    model, about = predictor.model, predictor.about
    if model.pool is not None:
        raise UserError(f"{about['method']} has prompts, which a stock ViT does not read: only predict uses them")
    if not isinstance(predictor.head, torch.nn.Linear | LinearHead):
        raise UserError(
            f"the head {predictor.head_name} is not linear, as that of a stock ViT is: choose another --head"
        )
    rows = {"head.weight": predictor.head.weight[model.seen], "head.bias": predictor.head.bias[model.seen]}
    with new_folder(Path(out)) as folder:
        write_tensors(folder / "model.safetensors", {**model.vit.state_dict(), **rows}, {"format": "pt"})
        write_json(folder / "config.json", config(predictor))
        (folder / "README.md").write_text(card(predictor), encoding="utf-8")
        return verify(predictor, folder)


def config(predictor: Predictor) -> dict:
    """The contents of config.json, with the names of the classes and the preprocessing of test images."""
    vit, names = predictor.model.vit, predictor.names
    known = vit.pretrained_cfg
    side = known["input_size"][-1]
    preprocessing = {
        "input_size": [*known["input_size"]],
        "fixed_input_size": True,
        "mean": [*known["mean"]],
        "std": [*known["std"]],
        "crop_mode": "center",
        "crop_pct": side / (resized_side(side) + 0.01),  # timm resizes to floor(side / crop_pct)
        "interpolation": "bilinear",
    }
    return {
        "architecture": known["architecture"],
        "num_classes": len(names),
        "num_features": vit.num_features,
        "global_pool": vit.global_pool,
        "label_names": names,
        "model_args": model_args(predictor.base),
        "pretrained_cfg": {
            **preprocessing,
            "num_classes": len(names),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            **({"license": known["license"]} if known.get("license") else {}),
        },
    }


@torch.no_grad()
def verify(predictor: Predictor, folder: Path) -> Verified:
    """Compare the logits of timm and of transformers with those of the predictor, on pictures of noise in fp32."""
    import timm
    from transformers import TimmWrapperForImageClassification

    model, side = predictor.model, predictor.model.vit.pretrained_cfg["input_size"][-1]
    x = torch.rand(4, 3, side, side, generator=seeded(0, Stream.EXPORT)).to(model.device)
    normalised = (x - model.mean) / model.std
    model.dtype = torch.float32  # half precision would only show rounding errors
    ours = predictor.logits(x)
    untrained = predictor.head(model.embed(load_backbone(predictor.base, str(model.device)), x))[:, model.seen]
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).to(model.device).eval()
    by_transformers = TimmWrapperForImageClassification.from_pretrained(folder).to(model.device).eval()
    labels = [by_transformers.config.id2label[k] for k in range(len(predictor.names))]
    if labels != predictor.names:
        raise RuntimeError(f"transformers reads other class names than were exported: {labels[:3]}")
    outputs: list[Tensor] = [by_timm(normalised), by_transformers(normalised).logits]
    difference = max((output - ours).abs().max().item() for output in outputs)
    verified = Verified(f"{len(labels)} classes", difference, (untrained - ours).abs().max().item())
    return check_difference(verified, TOLERANCE, ours.abs().max().item())


def card(predictor: Predictor) -> str:
    """The model card of an exported folder."""
    about, names = predictor.about, predictor.names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    settings = json.dumps(about["settings"])
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags: [image-classification, timm, transformers, continual-learning]
---
# {len(names)} classes, learned in {about["tasks"]} tasks

By `{about["method"]}` of stamina-lite, head `{predictor.head_name}`, seed {about["seed"]}, on the base
`{Path(predictor.base).name}` of fingerprint {about["base"]}. Dataset: {about["set"]}.
Classes: {shown}.

```python
import timm

model = timm.create_model("local-dir:this folder", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
probabilities = model(transform(image)[None]).softmax(1)  # names: model.pretrained_cfg["label_names"]
```

```python
from transformers import TimmWrapperForImageClassification

model = TimmWrapperForImageClassification.from_pretrained("this folder")  # names: model.config.id2label
```

Settings: `{settings}`
"""
