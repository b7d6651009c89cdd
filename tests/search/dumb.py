"""Slow twins of what is searched with: a beam search over lists (whole sequences through the decoder, a dictionary of codes,
Python's sort), and transitions counted pair by pair."""

from __future__ import annotations

import math

import torch

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.lynx import Lynx
from felid.search.transitions import POSITIONS, WINDOW
from tests.tiny import targets_after

Codes = tuple[int, ...]
Found = list[tuple[int, float]]


@torch.no_grad()
def next_log_probs(
    model: GenerativeModel, histories: Histories, item: int, level: int, below: dict[int, list[int]]
) -> dict[int, float]:
    """Log-probabilities of the codes that may follow the first `level` codes of an item, for a batch of one user.

    `below` has the items of the catalogue under each of these codes.
    """
    valid = sorted(below)
    targets = targets_after(model, histories.items.tolist(), [item])[0]
    decoded = model.target_states(histories, targets)
    hidden = decoded.hidden[-1, level]
    logits = model.logits(hidden, level).tolist()
    if isinstance(model, Lynx) and model.config.reads_nodes:
        vectors, query = model.item_vectors(), model.queries(hidden, decoded.starts[-1], level)
        for code, items in below.items():
            logits[code] += sum(float(query @ vectors[item]) for item in items) / len(items)
    over = [logits[c] for c in valid] if model.normalize == "trie" else model.vocabulary_logits(hidden).tolist()
    top = max(over)
    log_z = top + math.log(sum(math.exp(x - top) for x in over))
    return {code: logits[code] - log_z for code in valid}


def dumb_beam_search(
    model: GenerativeModel, histories: Histories, catalogue: dict[Codes, int], width: int, excluded: set[int]
) -> Found:
    """Items and scores, best first; equal scores in favour of the smaller semantic ID."""
    num_levels = len(next(iter(catalogue)))
    beams: list[tuple[float, Codes]] = [(0.0, ())]
    for level in range(num_levels):
        grown = []
        for score, prefix in beams:
            continued = [codes for codes in catalogue if codes[:level] == prefix]
            below: dict[int, list[int]] = {}
            for codes in continued:
                below.setdefault(codes[level], []).append(catalogue[codes])
            for code, gain in next_log_probs(model, histories, catalogue[continued[0]], level, below).items():
                if not set(below[code]) <= excluded:
                    grown.append((score + gain, (*prefix, code)))
        beams = sorted(grown, key=lambda beam: (-beam[0], beam[1]))[:width]
    return [(catalogue[prefix], score) for score, prefix in beams]


def dumb_evidence(train: list[list[int]], history: list[int], num_items: int) -> list[float]:
    """What each item gains by the transitions of some training histories."""
    gains = [0.0] * num_items
    for back, item in enumerate(reversed(history[-POSITIONS:])):
        for other in range(num_items):
            count = 0.0
            for row in train:
                for a, first in enumerate(row):
                    for b in range(a + 1, min(a + WINDOW, len(row) - 1) + 1):
                        count += (first == item and row[b] == other) / (b - a)
            gains[other] += 2.0**-back * math.log1p(count)
    return gains
