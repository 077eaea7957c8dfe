"""The interface through which a training or an evaluation reports its progress."""


class Reporter:
    """Receives progress and ignores it; subclasses show it to the user."""

    def note(self, text: str) -> None:
        """Receive a line that the user should see."""

    def progress(self, step: int, total: int, text: str) -> None:
        """Receive the number of finished steps, and the latest numbers as text if they are new."""
