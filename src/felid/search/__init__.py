"""Search for the items a model ranks first: by the likelihood of their codes, by inner product, or by all that is known."""

from felid.search.beam import Results, beam_search
from felid.search.exact import score_items

__all__ = ["Results", "beam_search", "score_items"]
