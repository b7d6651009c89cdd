"""Where interactions and items come from: one file per source, one union of their configs.

A new source is a file with a config class, `locate(config)` (name -> local file it reads, fetched if need be) and
`load(config, filters)`, one name in `DatasetConfig`, and one case in each of the two functions below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field

from felid.artifacts import file_digest
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources import amazon, files, movielens, sequences, steam, synthetic
from felid.data.sources.amazon import Amazon2014Config
from felid.data.sources.files import FilesConfig
from felid.data.sources.movielens import MovieLens100KConfig
from felid.data.sources.sequences import SequencesConfig
from felid.data.sources.steam import SteamConfig
from felid.data.sources.synthetic import SyntheticConfig

DatasetConfig = Annotated[
    MovieLens100KConfig | Amazon2014Config | SteamConfig | FilesConfig | SequencesConfig | SyntheticConfig,
    Field(discriminator="kind"),
]

_DEFAULT_FILTERS = FilterConfig()


def load_dataset(config: DatasetConfig, filters: FilterConfig = _DEFAULT_FILTERS) -> Dataset:
    """Read a source, check it and apply the filters.

    Raises:
        DataError: files are missing or malformed, or nothing is left after the filters.
    """
    match config:
        case MovieLens100KConfig():
            return movielens.load(config, filters)
        case Amazon2014Config():
            return amazon.load(config, filters)
        case SteamConfig():
            return steam.load(config, filters)
        case FilesConfig():
            return files.load(config, filters)
        case SequencesConfig():
            return sequences.load(config, filters)
        case SyntheticConfig():
            return synthetic.load(config, filters)
        case _:
            assert_never(config)


def locate(config: DatasetConfig) -> dict[str, Path]:
    """Name -> local file of everything `load_dataset` reads; missing public files are downloaded first."""
    match config:
        case MovieLens100KConfig():
            return movielens.locate(config)
        case Amazon2014Config():
            return amazon.locate(config)
        case SteamConfig():
            return steam.locate(config)
        case FilesConfig():
            return files.locate(config)
        case SequencesConfig():
            return sequences.locate(config)
        case SyntheticConfig():
            return {}
        case _:
            assert_never(config)


def fingerprint(config: DatasetConfig) -> dict[str, str]:
    """Name -> hex SHA-256 of every file that `load_dataset` reads; a stage key made of it follows the content."""
    return {name: file_digest(path) for name, path in locate(config).items()}
