"""`vit-interactions models` and `methods`: list supported models and methods."""

from typing import Annotated

import typer

from vit_interactions.utilities.console import row
from vit_interactions.utilities.text import did_you_mean


def models(
    name: Annotated[str, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only models with pretrained weights.")] = False,
) -> None:
    """List the supported timm models with their input size."""
    # It takes seconds.
    import timm

    from vit_interactions.loading.models import DIFFERENTIAL_ATTENTION, FAMILIES

    pattern = name if set(name) & set("*?[") else f"*{name}*"
    found = [
        m
        for family in FAMILIES
        for m in timm.list_models(
            pattern, module=family, pretrained=pretrained, exclude_filters=list(DIFFERENTIAL_ATTENTION)
        )
    ]
    if not found:
        names = [m for family in FAMILIES for m in timm.list_models(module=family)]
        others = " Other timm models have no global attention among patches." if timm.list_models(pattern) else ""
        raise ValueError(f"no supported model has a name like {name!r}.{others}{did_you_mean(name, names)}")
    for model in found:
        known = timm.get_pretrained_cfg(model)
        row(model, *([f"{known.input_size[-2]}x{known.input_size[-1]}"] if known else []))


def methods() -> None:
    """List the methods with their cost, source and options; captum's and pytorch-grad-cam's come last.

    Set options as in --method attention_rollout:fusion=max,discard=0.9. The default of each option comes first.
    """
    # They import torch.
    from vit_interactions.explain import Explainer
    from vit_interactions.explain.configured import configure
    from vit_interactions.explain.options import options_of
    from vit_interactions.explain.registry import all_methods
    from vit_interactions.explain.settings import Settings

    for method in Settings("", methods=configure(all_methods())).methods:
        explainer = method.kind
        library = "" if explainer.library == Explainer.library else f" ({explainer.library})"
        kind = "class-specific" if explainer.class_specific else "not class-specific"
        passes = f"{explainer.forwards} forward, {explainer.backwards} backward"
        order = "higher" if explainer.more_is_relevant else "lower"
        row(f"{method.name}{library}")
        row(f"    {explainer.quantity}; {order} is more relevant; {kind}; passes: {passes}")
        row(f"    {explainer.source}")
        defaults = (
            each._replace(default=method.options.get(each.name, each.default))
            for each in options_of(explainer).values()
        )
        if options := ", ".join(map(str, defaults)):
            row(f"    options: {options}")
