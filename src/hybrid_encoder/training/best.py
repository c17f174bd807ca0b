"""The best validation of a run so far, and how long it has been the best."""

from __future__ import annotations

import math
from typing import Any


class Best:
    """The best score of a run's validations; lower is better.

    Attributes:
        score, step: of the best validation; None and 0 before there was one.
        validated: the last step after which the run was validated, or pictures of it were made.
        without_gain: validations since the best one.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.step = self.validated = self.without_gain = 0

    def beaten_by(self, score: float) -> bool:
        """Return whether a score is better than all before it; one that is NaN never is."""
        return not math.isnan(score) and (self.score is None or score < self.score)

    def note(self, step: int, score: float, better: bool) -> None:
        """Note the score of a validation."""
        self.without_gain = 0 if better else self.without_gain + 1
        if better:
            self.score, self.step = score, step

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
