"""The largest scores against Python's sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felid.search.top import best, largest


@pytest.mark.parametrize("width", [1, 3, 8, 11, 12, 20])
@pytest.mark.parametrize("values", [2, 3, 1000])
def test_it_equals_sorting_and_of_equals_takes_the_first(width: int, values: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(values).integers(0, values, (40, 12)).astype(np.float32))
    scores[scores == 0] = -torch.inf
    places, found = best(scores, width)
    ascending, unsorted = largest(scores, width)
    for row, line in enumerate(scores.tolist()):
        wanted = sorted(range(12), key=lambda place: (-line[place], place))[:width]
        assert places[row].tolist() == wanted
        assert found[row].tolist() == [line[place] for place in wanted]
        assert ascending[row].tolist() == sorted(wanted)
        assert unsorted[row].tolist() == [line[place] for place in sorted(wanted)]
