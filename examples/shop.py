"""Writes a made-up shop as people have their data: FOLDER/orders.csv and FOLDER/products.csv (docs/own-data.md).

python examples/shop.py shop [USERS]
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from felid.data.filters import NO_FILTER
from felid.data.sources import SyntheticConfig, load_dataset

folder, users = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 600
shop = load_dataset(SyntheticConfig(num_users=users), NO_FILTER)
moments = [datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds") for seconds in shop.interactions["timestamp"]]
orders = shop.interactions.select(
    customer=pl.format("c{}", "user_id"), sku=pl.format("P{}", "item_id"), ordered_at=pl.Series(moments)
)
products = shop.items.select(
    pl.format("P{}", "item_id").alias("sku"), pl.col("title").alias("name"), pl.exclude("item_id", "title")
)
folder.mkdir(parents=True, exist_ok=True)
orders.write_csv(folder / "orders.csv", separator=";")
products.write_csv(folder / "products.csv")
