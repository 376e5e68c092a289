"""What a search space is written with: ``from search_spaces.domains import Float, SearchSpace``."""

from search_spaces.domains.kinds import Choice, Domain, Float, Int, Scalar, SpaceError
from search_spaces.domains.space import SearchSpace

__all__ = ["Choice", "Domain", "Float", "Int", "Scalar", "SearchSpace", "SpaceError"]
