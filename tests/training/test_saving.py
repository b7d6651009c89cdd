"""Models on disk: checkpoints that need their catalogue, and folders that need nothing else."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from felid.errors import ArtifactError
from felid.models import load_model, load_weights, save_model
from felid.models.base import Catalogue, DenseModel, Model
from felid.models.generative import GenerativeModel
from felid.models.liger import Liger
from felid.models.lynx import Lynx
from felid.models.sasrec import SASRec
from felid.models.tiger import Tiger
from tests.tiny import (
    ALL_KINDS,
    KINDS,
    AnyKind,
    DenseKind,
    Kind,
    any_model,
    catalogue,
    histories_of,
    random_model,
    tiny_catalogue,
)

CLASSES: dict[AnyKind, type[Model]] = {"lynx": Lynx, "tiger": Tiger, "sasrec": SASRec, "liger": Liger}


def a_model(kind: AnyKind) -> Model:
    """A random model over a catalogue with two cold items; sasrec is told of no codes."""
    known = tiny_catalogue(catalogue(), cold=(3, 7))
    return any_model(kind, known if kind != "sasrec" else Catalogue(known.embeddings, known.warm))


def answers(model: Model) -> list[Tensor]:
    """What a model computes for two histories, by each of its heads."""
    histories, found = histories_of([[1, 2, 4], [5]]), []
    with torch.no_grad():
        if isinstance(model, GenerativeModel):
            found.append(model.start(histories)[0])
        if isinstance(model, DenseModel):
            found.append((model.contexts(histories) @ model.item_vectors().T).nan_to_num())
    return found


def assert_equal(one: Model, other: Model) -> None:
    assert one.config == other.config
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(answers(one), answers(other), strict=True))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_saved_model_comes_back_whole(kind: AnyKind, tmp_path: Path) -> None:
    model = a_model(kind)
    save_model(tmp_path, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["model"]["kind"] == kind
    loaded = load_model(tmp_path, model.catalogue)
    assert not loaded.training
    assert_equal(loaded, model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_catalogue_is_refused(kind: Kind, tmp_path: Path) -> None:
    three, four = catalogue(20, (4, 3, 5)), catalogue(20, (4, 3, 5, 2))
    save_model(tmp_path, random_model(kind, four))
    with pytest.raises(ArtifactError, match=r"\(4, 3, 5, 2\).*\(4, 3, 5\).*train again"):
        load_model(tmp_path, tiny_catalogue(three))
    with pytest.raises(ArtifactError, match="does not fit this model"):
        load_weights(tmp_path, random_model(kind, three))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="train again"):
        load_model(tmp_path, tiny_catalogue(four))


@pytest.mark.parametrize("kind", ["lynx", "sasrec"])
def test_the_share_of_own_vectors_is_saved_with_the_counts_it_comes_from(kind: DenseKind, tmp_path: Path) -> None:
    known = tiny_catalogue(catalogue(), cold=(3, 7))
    known = replace(known, counts=np.arange(1, 21) * known.warm)
    model = any_model(kind, known, own_prior=3.0)
    save_model(tmp_path, model)
    assert_equal(load_model(tmp_path, known), model)
    model.save_pretrained(tmp_path / "mine")
    loaded = Model.from_pretrained(tmp_path / "mine")
    assert_equal(loaded, model)
    assert np.array_equal(loaded.catalogue.counts, known.counts)
    other = load_model(tmp_path, replace(known, counts=known.counts[::-1] + 1))
    assert not torch.equal(other.item_vectors(), model.item_vectors())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_pretrained_model_needs_nothing_but_its_folder(kind: AnyKind, tmp_path: Path) -> None:
    model, folder = a_model(kind), tmp_path / "models" / "mine"
    model.train().save_pretrained(folder)
    model.eval()
    moved = shutil.copytree(folder, tmp_path / "moved")
    for cls, place in ((Model, str(folder)), (CLASSES[kind], moved)):
        loaded = cls.from_pretrained(place)
        assert type(loaded) is CLASSES[kind]
        assert not loaded.training
        assert_equal(loaded, model)
        known, wanted = loaded.catalogue, model.catalogue
        assert np.array_equal(known.warm, wanted.warm)
        assert np.array_equal(known.embeddings, wanted.embeddings)
        assert (known.ids is None) == (wanted.ids is None)
        if known.ids is not None and wanted.ids is not None:
            assert (known.ids.sizes, known.ids.item_ids.tolist()) == (wanted.ids.sizes, wanted.ids.item_ids.tolist())
            assert np.array_equal(known.ids.codes, wanted.ids.codes)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_model_whose_save_was_interrupted_at_the_last_step_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first, rename = tmp_path / "mine", a_model("sasrec"), os.rename
    first.save_pretrained(folder)

    def once(source: Path, target: Path) -> None:
        if target == folder:
            raise KeyboardInterrupt
        rename(source, target)

    def interrupted() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", once)
            with pytest.raises(KeyboardInterrupt):
                a_model("tiger").save_pretrained(folder)
        assert not folder.exists()

    interrupted()
    assert_equal(Model.from_pretrained(folder), first)
    interrupted()
    monkeypatch.setattr("felid.models.pretrained.save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        a_model("tiger").save_pretrained(folder)
    assert_equal(Model.from_pretrained(folder), first)


def test_folders_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, mine = a_model("sasrec"), tmp_path / "mine"
    mine.mkdir()
    for name in (".mine.part", ".mine.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(mine)
    for name in (".", f"{tmp_path}/mine/deep/.."):
        model.save_pretrained(name)
        monkeypatch.chdir(mine)  # the folder of that name is another one now
        assert_equal(Model.from_pretrained(name), model)
    assert all((tmp_path / name / "thesis.txt").exists() for name in (".mine.part", ".mine.old"))


def test_a_pretrained_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    a_model("sasrec").save_pretrained(tmp_path / "mine")
    with pytest.raises(ArtifactError, match=r"holds a SASRec, expected a Lynx; use SASRec\.from_pretrained"):
        Lynx.from_pretrained(tmp_path / "mine")


def test_a_pretrained_model_replaces_another_but_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    a_model("sasrec").save_pretrained(folder)
    a_model("tiger").save_pretrained(folder)
    assert type(Model.from_pretrained(folder)) is Tiger
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="holds no saved model; choose another"):
        a_model("tiger").save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"


def test_what_is_not_a_whole_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "mine", a_model("lynx")
    with pytest.raises(ArtifactError, match="holds no saved model"):
        Model.from_pretrained(folder)
    model.save_pretrained(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], None):
            path.unlink() if broken is None else path.write_bytes(broken)
            with pytest.raises(ArtifactError, match=rf"{path.name} is missing or changed.*not whole"):
                Model.from_pretrained(folder)
        path.write_bytes(whole)
    assert_equal(Model.from_pretrained(folder), model)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("felid.models.pretrained.write_json", interrupted)  # the last thing that is written
    with pytest.raises(KeyboardInterrupt):
        a_model("tiger").save_pretrained(folder)
    monkeypatch.undo()
    assert_equal(Model.from_pretrained(folder), model)
    a_model("tiger").save_pretrained(folder)
    assert type(Model.from_pretrained(folder)) is Tiger
