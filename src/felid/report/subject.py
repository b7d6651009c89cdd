"""What a tokeniser report is about: the IDs of a run, or imported ones, with whatever is known about their items."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import find_artifact, open_artifact, read_json, read_run
from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import read_split
from felid.embedding import open_embeddings
from felid.errors import ArtifactError, SemanticIdError
from felid.quantize import build_quantizer, load_quantizer
from felid.quantize.base import Codes, Quantizer
from felid.quantize.catalogue import encode_catalogue
from felid.recommender import titles_of
from felid.rows import RowFile, Rows, load_array
from felid.semantic_ids import SemanticIds
from felid.tokenizing import Material, TokenizeSettings

Columns = Mapping[str, list[Any]]
Progress = Callable[[int, int], None]
Refit = Callable[[Progress, NDArray[np.int64]], Codes]
"""(progress, rows (n,) item_index) -> (n, Lq) codes."""
TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")
MAX_CODES = 2**20
"""Most codes of a level of imported IDs; far larger codes are numbers of something else."""


@dataclass(frozen=True, eq=False)
class Subject:
    """IDs and their items, row = item_index.

    Attributes:
        source: the quantiser's kind, or the name of the file of imported IDs.
        codes: (N, L) int32 final IDs.
        sizes: codes per level.
        item_ids: (N,) ids as the data gives them.
        titles: (N,) titles, "" where there is none.
        columns: other columns of the catalogue, (N,) values each.
        vectors: (N, D) item vectors that codes are made of (of imported ones those from text), None if unknown.
        quantizer: what made the codes, None for imported ones.
        quantized: (N, Lq) its codes, before collisions were resolved.
        log: one record per epoch of a quantiser that learns in epochs.
        refit: codes (n, Lq) of some items by the same quantiser with the next seed; None where there is no seed.
        transductive: the quantiser was fitted on all items, those without training interactions among them.
        notes: what a reader must know.
    """

    source: str
    codes: Codes
    sizes: tuple[int, ...]
    item_ids: NDArray[np.generic]
    titles: list[str]
    columns: Columns = field(default_factory=dict)
    vectors: Rows | None = None
    quantizer: Quantizer | None = None
    quantized: Codes | None = None
    log: tuple[Mapping[str, Any], ...] = ()
    refit: Refit | None = None
    transductive: bool = False
    notes: tuple[str, ...] = ()

    @property
    def learned(self) -> Codes:
        """(N, Lq) what carries meaning: the quantiser's codes; of imported IDs all codes."""
        return self.codes if self.quantized is None else self.quantized


def subject_of_run(root: Path, folders: Mapping[str, Path] | None = None) -> Subject:
    """The IDs of a run folder.

    Args:
        root: the run folder.
        folders: its artifacts of `data`, `embed` and `tokenize`; None = those that were made last.

    Raises:
        ArtifactError: no such stage yet, or damaged files.
    """
    folders = folders or _folders(root, ("data", "embed", "tokenize"))
    dataset, ids = Dataset.load(folders["data"]), SemanticIds.load(folders["tokenize"])
    material = _material(root, folders, dataset)
    settings, vectors = material.settings, material.vectors
    quantizer = load_quantizer(folders["tokenize"] / "quantizer")
    return Subject(
        source=settings.quantizer.kind,
        codes=ids.codes,
        sizes=ids.sizes,
        item_ids=ids.item_ids,
        titles=titles_of(dataset),
        columns=_columns(dataset),
        vectors=vectors,
        quantizer=quantizer,
        quantized=_quantized(folders["tokenize"] / "quantizer_codes.npy", quantizer, vectors),
        log=_read_log(folders["tokenize"] / "log.jsonl"),
        refit=_refit(material) if hasattr(settings.quantizer, "seed") else None,
        transductive=settings.cold.quantizer_fit == "all",
        notes=_fit_notes(settings),
    )


def _folders(root: Path, stages: tuple[str, ...]) -> dict[str, Path]:
    known = read_run(root).get("stages", {})
    missing = [stage for stage in stages if stage not in known]
    if missing:
        raise ArtifactError(f"{root} has no {missing[0]} stage yet; run `felid tokenize {root}` first")
    return {stage: open_artifact(root / known[stage]).path for stage in stages}


def _material(root: Path, folders: Mapping[str, Path], dataset: Dataset) -> Material:
    """What the IDs of a run were made of."""
    manifest = open_artifact(folders["tokenize"]).manifest
    config, inputs = manifest.get("config", {}), manifest.get("inputs", {})
    settings = validate(TokenizeSettings, {name: config[name] for name in TokenizeSettings.model_fields if name in config})
    split = split_of(dataset, validate(HoldoutConfig, config.get("holdout", {})), read_split(config.get("split")))
    warmup = find_artifact(root, "warmup", inputs["warmup"]).path if "warmup" in inputs else None
    return Material(settings, open_embeddings(folders["embed"], normalized=True), split, dataset.item_ids, warmup)


def _columns(dataset: Dataset) -> Columns:
    names = [name for name in dataset.items.columns if name not in ("item_id", "title")]
    return {name: dataset.items[name].to_list() for name in names}


def _quantized(path: Path, quantizer: Quantizer, vectors: Rows) -> Codes:
    """The quantiser's codes of all items, made again where they were not kept."""
    if not path.is_file():
        return encode_catalogue(quantizer, vectors)
    return np.asarray(load_array(path, (vectors.shape[0], len(quantizer.sizes))), np.int32)


def _read_log(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not valid JSON lines ({error}); run `felid tokenize` again") from error


def _fit_notes(settings: TokenizeSettings) -> tuple[str, ...]:
    behaviour = ("codes are made of item vectors from behaviour",) if settings.tokenize.vectors == "collaborative" else ()
    if settings.cold.quantizer_fit == "all":
        learnt = "transductive: the quantiser was fitted on all items, those without training interactions among them"
    else:
        learnt = "the quantiser was fitted on items with training interactions; the others were encoded with the frozen quantiser"
    return (learnt, *behaviour)


def _refit(material: Material) -> Refit:
    """What fits the same quantiser with the next seed on the same rows, and encodes some items."""

    def refit(progress: Progress, wanted: NDArray[np.int64]) -> Codes:
        config = material.settings.quantizer
        other = validate(type(config), {**config.model_dump(), "seed": getattr(config, "seed", 0) + 1})
        context = replace(material.context(), progress=progress)
        quantizer = build_quantizer(other).fit(material.vectors[material.rows], context)
        return quantizer.encode(material.vectors[wanted], wanted)

    return refit


def subject_of_file(file: Path, root: Path) -> Subject:
    """Imported IDs: JSON that maps item_id to codes ([42, 7, ...] or ["<a_42>", "<b_7>", ...]); several items may share an ID.

    Titles, categories and vectors come from the run folder's data and embed stages, where there are any. The number of codes of
    a level is not in the file: the largest code that occurs, plus one.

    Raises:
        SemanticIdError: the file holds something else, or no item of the run folder.
        ArtifactError: the file cannot be read.
    """
    imported = _imported(read_json(file), file)
    stages = read_run(root).get("stages", {})
    notes = ["the size of a level is the largest imported code plus one; codes beyond it that never occur cannot be seen"]
    if "data" not in stages:
        codes = np.array(list(imported.values()), np.int32)
        sizes = tuple((codes.max(0) + 1).tolist())
        notes.append(f"{root} holds no data: no titles, categories or vectors")
        return Subject(file.name, codes, sizes, np.array(list(imported), object), [""] * len(codes), notes=tuple(notes))
    dataset = Dataset.load(open_artifact(root / stages["data"]).path)
    names = [str(item) for item in dataset.item_ids.tolist()]
    rows = np.array([row for row, name in enumerate(names) if name in imported], np.int64)
    if not len(rows):
        raise SemanticIdError(
            f"none of the {len(imported)} item ids in {file} is in the catalogue of {root} ({names[0]!r}, ...); "
            "give the ids of the data, or a folder without a run"
        )
    if len(rows) < len(names) or len(rows) < len(imported):
        notes.append(f"{len(rows):,} items are in both the file ({len(imported):,}) and the catalogue ({len(names):,})")
    codes = np.array([imported[names[row]] for row in rows], np.int32)
    titles = titles_of(dataset)
    vectors = None
    if "embed" in stages:
        vectors = RowFile(open_embeddings(open_artifact(root / stages["embed"]).path, normalized=True).path, select=rows)
    return Subject(
        source=file.name,
        codes=codes,
        sizes=tuple((codes.max(0) + 1).tolist()),
        item_ids=dataset.item_ids[rows],
        titles=[titles[row] for row in rows],
        columns={name: [values[row] for row in rows] for name, values in _columns(dataset).items()},
        vectors=vectors,
        notes=tuple(notes),
    )


def _imported(content: object, file: Path) -> dict[str, list[int]]:
    """item_id (as text) -> codes, all of the same length."""
    wrong = f"{file} is no mapping of item ids to codes"
    if not isinstance(content, dict) or not content:
        raise SemanticIdError(f'{wrong}; expected JSON such as {{"B01": [42, 7, 0], "B02": ["<a_42>", "<b_7>", "<c_1>"]}}')
    found = {str(item): _codes_of(item, tokens, file) for item, tokens in content.items()}
    lengths = sorted({len(codes) for codes in found.values()})
    if len(lengths) != 1:
        raise SemanticIdError(
            f"{file} holds IDs of {lengths[0]} to {lengths[-1]} levels; expected the same number for every item"
        )
    return found


def _codes_of(item: object, tokens: object, file: Path) -> list[int]:
    codes = [_code_of(token, level) for level, token in enumerate(tokens)] if isinstance(tokens, list) else []
    found = [code for code in codes if code is not None]
    if not found or len(found) < len(codes):
        raise SemanticIdError(
            f'item {item!r} in {file} has {tokens!r}; expected codes such as [42, 7] or ["<a_42>", "<b_7>"], the letters in the '
            "order of the levels"
        )
    if max(found) >= MAX_CODES:
        raise SemanticIdError(
            f"item {item!r} in {file} has code {max(found)}; expected codes below {MAX_CODES}, numbered from 0 on each level: "
            "number them anew"
        )
    return found


def _code_of(token: object, level: int) -> int | None:
    """The number in a token such as <b_7> (level 1), or a number as it is; None for anything else."""
    if isinstance(token, str):
        match = TOKEN.fullmatch(token.lower())
        return int(match[2]) if match and ord(match[1]) == ord("a") + level else None
    return token if isinstance(token, int) and not isinstance(token, bool) and token >= 0 else None
