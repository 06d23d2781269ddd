"""What a checker raises."""

from __future__ import annotations


class Violation(AssertionError):
    """A promised guarantee was broken. guarantee: its short name, which is also the name of the checker's method."""

    def __init__(self, guarantee: str, detail: str) -> None:
        super().__init__(f"{guarantee}: {detail}")
        self.guarantee = guarantee
        self.detail = detail
