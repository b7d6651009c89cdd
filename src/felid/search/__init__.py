"""Trie-constrained search for the most probable items."""

from felid.search.beam import Results, beam_search
from felid.search.exact import score_items

__all__ = ["Results", "beam_search", "score_items"]
