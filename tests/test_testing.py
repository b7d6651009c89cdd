from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from felid.errors import FelidError
from felid.testing import code_tables, toy_world


def test_the_module_needs_neither_torch_nor_hypothesis() -> None:
    program = "import felid.testing, sys; print(sorted({'torch', 'hypothesis', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_strategies_without_hypothesis_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(FelidError, match="pip install hypothesis"):
        code_tables()


def test_every_step_of_the_toy_world_is_trained_and_no_user_sees_an_item_twice() -> None:
    world = toy_world()
    train = world.split.train()
    steps = {(int(a), int(b)) for row in range(len(train)) for a, b in zip(train[row][:-1], train[row][1:], strict=True)}
    assert steps == {(item, int(after)) for item, after in enumerate(world.successor)}
    assert all(len(set(world.sequences[row].tolist())) == len(world.sequences[row]) for row in range(len(world.sequences)))
    assert len(np.unique(world.codes, axis=0)) == world.num_items
    assert np.allclose(np.linalg.norm(world.vectors, axis=1), 1, atol=1e-6)


def test_equal_seeds_give_equal_toy_worlds() -> None:
    one, two, other = toy_world(seed=1), toy_world(seed=1), toy_world(seed=2)
    assert np.array_equal(one.sequences.items, two.sequences.items)
    assert np.array_equal(one.codes, two.codes)
    assert not np.array_equal(one.successor, other.successor)
