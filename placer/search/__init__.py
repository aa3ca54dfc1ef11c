"""Searches: methods that spend a budget of evaluations; see :class:`placer.problem.Search`."""
