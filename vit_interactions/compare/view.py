"""A photograph as a model saw it: what it was taken for, what is explained, and where the patches lie."""

from dataclasses import asdict, dataclass
from typing import Any

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.placement import Placement
from vit_interactions.loading.predictions import Prediction


@dataclass(frozen=True)
class View:
    """A photograph as a model saw it.

    Attributes:
        prediction: the class of the highest score; None for a model without classes.
        explained: the same of the class that is explained.
        layout: of the model's patches.
        placement: where the pixels of the model's input lie in the photograph.
    """

    prediction: Prediction | None
    explained: Prediction | None
    layout: TokenLayout
    placement: Placement

    @property
    def target(self) -> int | None:
        """The class that is explained; None for a model without classes."""
        return None if self.explained is None else self.explained.index

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` makes a view of."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "View":
        """Make a view of what `as_json` gave, also after a way through a file.

        Example:
            >>> view = View(None, None, TokenLayout(1, 2, 3, "token", (32, 48)), Placement(32, 48))
            >>> View.from_json(view.as_json()) == view
            True
        """
        layout = {**content["layout"], "extent": tuple(content["layout"]["extent"])}
        prediction, explained = (
            None if content[name] is None else Prediction(**content[name]) for name in ("prediction", "explained")
        )
        return cls(prediction, explained, TokenLayout(**layout), Placement(**content["placement"]))
