"""Five days of a feed, and a configuration over them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support import feed_table, feed_values

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig

DAY = 86_400_000
START = 19_844 * DAY  # 2024-05-01
DAYS = 5


def write_days(folder: Path) -> None:
    """Write a file a day; on the last one `followers` has another scale."""
    for day in range(DAYS):
        table = feed_table(120, seed=day)
        served = pa.array(START + day * DAY + np.arange(120) * 60_000)
        table = table.set_column(table.column_names.index("served_at_ms"), "served_at_ms", served)
        if day == DAYS - 1:
            followers = pa.array(table.column("followers").to_numpy() * np.float32(1e4))
            table = table.set_column(table.column_names.index("followers"), "followers", followers)
        pq.write_table(table, folder / f"feed-2024-05-0{day + 1}.parquet", row_group_size=40)
    pq.write_table(pa.table({"value": ["en", "ja", "pt"]}), folder / "languages.parquet")


def config_for(days: Path, save_dir: Path = Path("unused"), **section: Any) -> RecapConfig:
    values = feed_values(days, save_dir)
    values["training"] |= {"num_train_steps": 4, "eval_log_every_n": 2}
    values["train_data"]["source"] = {"inputs": [str(days / "feed-*.parquet")]}
    values["train_data"]["global_batch_size"] = 32
    values["validation_data"] = {}
    values["backtest"] = section
    return config_of(values)
