"""The exception tree of placer.

Every message names what was given, what was expected and where::

    PlacerError
    ├── FormatError (ValueError)       a file or document does not follow its format
    ├── GraphError (ValueError)        figures or edges that no computation graph can have
    ├── ClusterError (ValueError)      devices or links that no cluster can have
    ├── PlacementError (ValueError)    a placement that does not fit its graph or cluster
    ├── InfeasibleError                no feasible placement was found
    ├── ReadError (ValueError)         a TensorFlow object that cannot be read
    ├── MisplacedError                 TensorFlow ran ops elsewhere than asked
    ├── UnknownNameError (KeyError)    a name of nothing we know; says what is near
    └── UsageError (ValueError)        an argument or option outside its range
        └── UnprovenError              a search that has to prove its result could not
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlacerError(Exception):
    """Base of all errors that placer raises on purpose."""


class FormatError(PlacerError, ValueError):
    """A file or document does not follow its format."""


class GraphError(PlacerError, ValueError):
    """A computation graph with impossible edges or figures."""


class ClusterError(PlacerError, ValueError):
    """A cluster with impossible devices or links."""


class PlacementError(PlacerError, ValueError):
    """A placement that does not fit its graph or cluster."""


class InfeasibleError(PlacerError):
    """No feasible placement was found.

    Attributes:
        evaluations: How many placements a search evaluated before it said so.
    """

    evaluations: int = 0

    @classmethod
    def after(cls, evaluations: int, message: str) -> InfeasibleError:
        """That of a search that evaluated so many placements."""
        error = cls(message)
        error.evaluations = evaluations
        return error


class ReadError(PlacerError, ValueError):
    """A TensorFlow object that cannot be read into a graph."""


class MisplacedError(PlacerError):
    """TensorFlow ran ops elsewhere than asked, or not at all."""


class UsageError(PlacerError, ValueError):
    """An argument outside its range."""


class UnprovenError(UsageError):
    """A search that has to prove its result could not, for its budget did not suffice.

    Args:
        message: What was tried.
        evaluations: How many placements were evaluated.
    """

    def __init__(self, message: str, evaluations: int) -> None:
        super().__init__(message, evaluations)
        self.evaluations = evaluations

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownNameError(PlacerError, KeyError):
    """A name of nothing we know.

    Args:
        kind: What the name should have named, such as ``"cluster"``.
        name: The name that was given.
        known: The names there are.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        some = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of: {some}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])
