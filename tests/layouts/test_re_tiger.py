"""re-TIGER's processed folder: names, types, what its own programs make of it, and the way back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from felid.errors import ArtifactError, FelidError, FelidWarning, RequestError
from felid.layouts import import_layout
from felid.layouts.re_tiger import load_rqvae, read
from felid.layouts.source import RunSource
from felid.pipeline import Pipeline
from felid.quantize import load_quantizer
from felid.quantize.rqvae import RQVAE
from felid.recipe import load_recipe
from tests.layouts.conftest import RQVAE as SMALL_RQVAE
from tests.layouts.conftest import exported, histories, make

FILES = {
    *("item_text.jsonl", "train.jsonl", "valid.jsonl", "test.jsonl", "stats.json"),
    *("sentence_t5_embeddings.npy", "sentence_t5_item_ids.json", "rqvae.pt", "rqvae_codebooks.pt"),
    *("semantic_ids.json", "semantic_id_to_item.json", "logs/rqvae.jsonl", "README.md", "felid-export.json"),
}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(full, "re-tiger", tmp_path_factory.mktemp("out"))


def test_files_have_the_published_names_shapes_and_types(folder: Path, full: Path) -> None:
    assert names_in(folder) == FILES | {"seq2seq.pt", "logs/seq2seq.jsonl", "comparison.md"}
    run = RunSource.open(full)
    count = len(run.item_ids)
    vectors = np.load(folder / "sentence_t5_embeddings.npy")
    assert (vectors.dtype, vectors.shape) == (np.float32, (count, 12))
    assert json.loads((folder / "sentence_t5_item_ids.json").read_text()) == [str(item) for item in run.item_ids]
    start = torch.load(folder / "rqvae_codebooks.pt", weights_only=True)
    assert (start["codebooks"].shape, start["codebooks"].dtype) == ((3, 8, 8), torch.float32)
    assert (start["codebook_size"], start["num_codebooks"], start["latent_dim"]) == (8, 3, 8)
    stats = json.loads((folder / "stats.json").read_text())
    assert {name: stats[name] for name in ("num_users", "num_items", "num_valid", "num_test")} == {
        "num_users": 120,
        "num_items": count,
        "num_valid": 120,
        "num_test": 120,
    }
    assert stats["num_train"] == len(run.split.train().items)
    assert "`lsa`" in (folder / "README.md").read_text()


def test_every_id_leads_to_its_items_and_back(folder: Path) -> None:
    ids = json.loads((folder / "semantic_ids.json").read_text())
    groups = json.loads((folder / "semantic_id_to_item.json").read_text())
    assert all(groups[",".join(map(str, codes))] == [item] for item, codes in ids.items())
    assert sorted(item for items in groups.values() for item in items) == sorted(ids)
    assert {len(codes) for codes in ids.values()} == {4}


def test_parts_are_those_of_the_run(folder: Path, full: Path) -> None:
    run = RunSource.open(full)
    item_ids = np.array([str(item) for item in run.item_ids], object)
    train, users = run.split.train(), run.split.sequences.user_ids.tolist()
    records = lines(folder / "train.jsonl")
    assert [record["item_id"] for record in records] == item_ids[train.items].tolist()
    assert [record["user_id"] for record in records] == [str(u) for u in np.repeat(users, train.lengths).tolist()]
    for name, part in (("valid", "validation"), ("test", "test")):
        assert [record["item_id"] for record in lines(folder / f"{name}.jsonl")] == item_ids[
            run.split.evaluation(part).targets
        ].tolist()
    times = {(r["user_id"], r["item_id"]): r["timestamp"] for r in records}
    first = run.dataset.interactions.row(0, named=True)
    assert times[str(first["user_id"]), str(first["item_id"])] == first["timestamp"]
    texts = lines(folder / "item_text.jsonl")
    assert list(texts[0]) == ["item_id", "text"]
    assert run.dataset.items["title"][0] in texts[0]["text"]


def test_a_plain_network_with_the_weights_gives_the_codes(folder: Path, full: Path) -> None:
    """Nothing of felid: Linear and ReLU, residuals to the nearest code."""
    state = torch.load(folder / "rqvae.pt", weights_only=True)["model"]
    encoder = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    decoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12)).double()
    for name, network in (("encoder.", encoder), ("decoder.", decoder)):
        network.load_state_dict({key.removeprefix(name): value for key, value in state.items() if key.startswith(name)})
    vectors = torch.from_numpy(np.load(folder / "sentence_t5_embeddings.npy")).double()
    residual, codes, total = encoder(vectors), [], torch.zeros(len(vectors), 8, dtype=torch.double)
    for codebook in state["quantizer.codebooks"].double():
        codes.append(torch.cdist(residual, codebook).argmin(1))
        residual, total = residual - codebook[codes[-1]], total + codebook[codes[-1]]
    ids = json.loads((folder / "semantic_ids.json").read_text())
    expected = np.array([ids[item][:3] for item in json.loads((folder / "sentence_t5_item_ids.json").read_text())])
    found = torch.stack(codes, 1).numpy()
    assert (found == expected).all(1).mean() > 0.99  # rounding of the folded weights may turn a near-tie
    own = load_quantizer(RunSource.open(full).quantizer_folder).decode(found.astype(np.int32))
    np.testing.assert_allclose(decoder(total).detach().numpy(), own, atol=1e-5)
    assert torch.equal(load_rqvae(folder)["encoder.0.weight"], state["encoder.0.weight"])


def test_codebooks_are_those_before_training(folder: Path, full: Path) -> None:
    start = torch.load(folder / "rqvae_codebooks.pt", weights_only=True)["codebooks"].numpy()
    (made,) = (full / "start").iterdir()
    np.testing.assert_array_equal(start[1], np.load(made / "codebook_1.npy"))
    trained = torch.load(folder / "rqvae.pt", weights_only=True)["model"]["quantizer.codebooks"].numpy()
    assert not np.allclose(start, trained)


def test_import_gives_the_same_histories_vectors_and_ids(folder: Path, full: Path, tmp_path: Path) -> None:
    run = RunSource.open(full)
    found = import_layout(folder, "re-tiger", tmp_path / "back")
    assert histories(found.dataset) == histories(run.dataset)
    assert found.item_ids.tolist() == run.item_ids
    np.testing.assert_array_equal(found.vectors, run.vectors(normalized=True))
    np.testing.assert_array_equal(found.ids.codes, run.ids.codes)
    assert found.ids.sizes == run.ids.sizes
    assert found.dataset.interactions["timestamp"].to_list() == run.dataset.interactions["timestamp"].to_list()


def test_a_run_without_times_or_a_model_keeps_its_order_and_leaves_held_out_items_to_the_tests(untimed: Path, tmp_path) -> None:
    folder, run = exported(untimed, "re-tiger", tmp_path), RunSource.open(untimed)
    assert names_in(folder) == FILES
    assert json.loads((folder / "stats.json").read_text())["timestamp"] == "position"
    trained = {record["item_id"] for record in lines(folder / "train.jsonl")}
    held = run.split.held_out
    assert held.either.sum() > 0
    assert not trained & set(run.dataset.item_ids[held.either])
    found = read(folder)
    assert found.dataset.item_ids.tolist() == run.item_ids
    kept = histories(run.dataset)
    for user, items in histories(found.dataset).items():
        ends = kept[user][-2:]
        assert items == [item for item in kept[user][:-2] if item in trained] + ends
    assert "timestamp" not in found.dataset.interactions.columns


def test_items_taken_from_training_keep_their_codes_and_are_judged_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cold start of recipe re-tiger: `holdout.rule=random`, and an RQ-VAE that learns from the held-out items too."""
    fitted, fit = [], RQVAE.fit

    def counted(self: RQVAE, x: np.ndarray, *context: object) -> RQVAE:
        fitted.append(len(x))
        return fit(self, x, *context)

    monkeypatch.setattr(RQVAE, "fit", counted)
    world = "dataset={kind: synthetic, num_users: 120, num_types: 8, items_per_cell: 4, max_length: 8}"
    data = [world, "filter.min_item_interactions=0", "embedding={kind: lsa, dim: 8}", "holdout.rule=random"]
    sizes = ["quantizer.sizes=[4,4]", "quantizer.hidden=[16]", "quantizer.latent=8", "quantizer.epochs=2"]
    training = ["model.width=16", "model.feed_forward=32", "training.epochs=1", "evaluation.bootstrap=20"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        recipe = load_recipe("re-tiger-short", [*data, *sizes, *training])
        Pipeline(recipe, tmp_path / "run").run()
        run = RunSource.open(tmp_path / "run")
        Pipeline(load_recipe("re-tiger-short", [*data, *sizes, "cold.quantizer_fit=warm"]), tmp_path / "warm").run("tokenize")
    held, warm = run.split.held_out, run.split.warm_items(len(run.item_ids))
    assert fitted == [len(run.item_ids), warm.sum()] and held.either.sum() > 0 and not warm[held.either].any()
    metrics = run.metrics
    assert metrics["system"] == "tiger, transductive"
    cold = run.split.evaluation("test").targets
    assert metrics["test_cold"]["num_users"] == held.test[cold].sum() > 0
    folder, names = exported(tmp_path / "run", "re-tiger", tmp_path), np.array([str(item) for item in run.item_ids], object)
    assert not {record["item_id"] for record in lines(folder / "train.jsonl")} & set(names[held.either])
    assert set(names[held.test]) <= set(json.loads((folder / "semantic_ids.json").read_text()))
    table = [line.split(" | ") for line in (folder / "comparison.md").read_text().splitlines() if "cold targets" in line]
    assert [row[5] for row in table] == [f"{name}, cold targets" for name in ("tiger, transductive", "popularity", "markov")]
    assert {row[6] for row in table} == {str(metrics["test_cold"]["num_users"])}


def write_original(tmp_path: Path) -> None:
    """Text ids, a code for collisions only where items collide, times in seconds, nothing of felid's."""
    events = [("u1", ["b", "a", "c", "a"]), ("u2", ["c", "b", "a"])]
    for part, place in (("train", slice(None, -2)), ("valid", slice(-2, -1)), ("test", slice(-1, None))):
        rows = [
            {"user_id": user, "item_id": item, "timestamp": 1400000000 + items.index(item)}
            for user, items in events
            for item in items[place]
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    texts = [{"item_id": item, "text": f"text of {item}"} for item in "abc"]
    (tmp_path / "item_text.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (tmp_path / "stats.json").write_text('{"num_users": 2}')
    np.save(tmp_path / "sentence_t5_embeddings.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (tmp_path / "sentence_t5_item_ids.json").write_text('["c", "a", "b"]')
    (tmp_path / "semantic_ids.json").write_text('{"a": [1, 2], "b": [3, 0, 0], "c": [3, 0, 1]}')


def test_what_the_original_writes_is_imported_too(tmp_path: Path) -> None:
    write_original(tmp_path)
    found = read(tmp_path)
    assert histories(found.dataset) == {"u1": ["b", "a", "c", "a"], "u2": ["c", "b", "a"]}
    assert found.ids.codes.tolist() == [[1, 2, 0], [3, 0, 0], [3, 0, 1]]
    assert found.vectors.tolist() == [[2, 3], [4, 5], [0, 1]]
    (tmp_path / "semantic_ids.json").write_text('{"a": [1, 2], "b": [3, 0, 0]}')
    with pytest.raises(ArtifactError, match=r"lacks 1 items \(first: 'c'\)"):
        read(tmp_path)


@pytest.mark.parametrize("codes", ["null", "[1.5, 2]", "[-1, 2]", '"12"', '["1", "2"]', "[true, 2]", "[4294967296, 2]", "{}"])
def test_ids_that_are_no_codes_are_refused(codes: str, tmp_path: Path) -> None:
    write_original(tmp_path)
    (tmp_path / "semantic_ids.json").write_text(f'{{"a": {codes}, "b": [3, 0, 0], "c": [3, 0, 1]}}')
    with pytest.raises(
        ArtifactError, match=r"holds 1 IDs that are no lists of whole numbers from 0 \(first: .*\); export it again"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("semantic_ids.json", "[[1, 2]]", r"semantic_ids\.json holds a list, expected a dict"),
        ("stats.json", "[1]", r"stats\.json holds a list, expected a dict"),
        ("sentence_t5_item_ids.json", "{}", r"sentence_t5_item_ids\.json holds a dict, expected a list"),
        (
            "valid.jsonl",
            '{"user_id": "u1", "item_id": "c", "timestamp": "noon"}',
            "line 1 of .*valid.* a timestamp that is no number",
        ),
    ],
)
def test_files_that_hold_something_else_are_one_sentence(name: str, content: str, says: str, tmp_path: Path) -> None:
    write_original(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=says):
        read(tmp_path)


def test_a_split_by_time_whose_parts_would_lose_interactions_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "run", *SMALL_RQVAE, "quantizer.sizes=[8,8]", "split.kind=time", until="tokenize")
    split = RunSource.open(run).split
    parts = [split.train().items, split.evaluation("validation").targets, split.evaluation("test").targets]
    lost = len(split.sequences.items) - sum(map(len, parts))
    assert lost > 0
    with pytest.raises(RequestError, match=rf"has {lost} interactions that are neither \(.*run .* with split.kind=leave-one-out"):
        exported(run, "re-tiger", tmp_path)
    assert not (tmp_path / "re-tiger").exists()


@pytest.mark.parametrize("name", ["kmeans", "encoded"])
def test_a_run_without_an_rqvae_is_refused(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with pytest.raises(FelidError, match=r"holds an RQ-VAE \(quantizer.kind=rqvae\).*has quantizer.kind=.*run `felid run`"):
        exported(request.getfixturevalue(name), "re-tiger", tmp_path)
    assert list(tmp_path.iterdir()) == []
