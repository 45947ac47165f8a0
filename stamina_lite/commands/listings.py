"""methods, info: what there is to choose from."""

from pathlib import Path


def add(verb) -> None:
    """Add the verbs."""
    verb(methods)
    verb(info)


def methods(args) -> None:
    """List the methods and their settings."""
    from ..core.settings import ClassSettings, Settings
    from ..methods.registry import REGISTRY

    concepts = [(e, e.method.defaults) for e in REGISTRY if e.colour]
    classes = [(e, e.classes) for e in REGISTRY if e.classes is not None]
    for half, entries, settings in (("concepts", concepts, Settings()), ("classes", classes, ClassSettings())):
        print(f"methods for {half}")
        for entry, defaults in entries:
            changed = "".join(f" {key}={value}" for key, value in defaults.items())
            summary = str(entry.method.__doc__).splitlines()[0]
            print(f"{entry.method.name:22s} {summary} [{entry.source}]{' Defaults:' + changed if changed else ''}")
        print("settings where a method names no other:")
        print(" ".join(f"{key}={value}" for key, value in settings.as_dict().items()), end="\n\n")


def info(args) -> None:
    """Show versions, device, base models and sets."""
    import torch

    from ..classification.backbones import EMBEDDED as BACKBONES
    from ..diffusion.bases import EMBEDDED
    from ..diffusion.concepts import SETS, concepts
    from ..reproduction.grids import NOTEBOOKS
    from ..runs.versions import versions

    about = versions(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    lines = {**about["versions"], "device": about["device"], "package": Path(__file__).parents[1]}
    lines["notebooks"] = NOTEBOOKS if NOTEBOOKS.is_dir() else "none: they are in the source checkout"
    lines |= {f"base {name}": folder if folder.is_dir() else f"missing: {folder}" for name, folder in EMBEDDED.items()}
    lines |= {f"ViT {name}": folder if folder.is_dir() else f"missing: {folder}" for name, folder in BACKBONES.items()}
    lines |= {f"set {name}": f"{len(concepts(name))} concepts" for name in SETS}
    for name, value in lines.items():
        print(f"{name:14s} {value}")
