"""Trains the small models of this folder and writes what LightGBM itself predicts for the rows beside them.

    pip install lightgbm pandas onnxmltools && python generate.py

NAME.txt is a model, data.csv the rows of all models but those of pandas_data.csv, expected.csv what Booster.predict gives for each row: one column per
model, or one per class or raw sum (NAME:0, NAME:1, …). NAME.onnx is the same model as Python exports it, to compare the speed. The rows hold what a database may hold and training did not: NaN, infinities, numbers around
LightGBM's bound of zero, thresholds themselves and their neighbours, categories never seen, negative, fractional and out of an int's range.
"""

import csv
import math
import pathlib

import lightgbm as lgb
import numpy as np
import onnxmltools
import pandas as pd
from onnxmltools.convert.common.data_types import FloatTensorType

HERE = pathlib.Path(__file__).parent
ZERO = float(np.float32(1e-35))
NAMES = ["größe", "label", "a=b", "code", "kind"]
BASE = {"verbose": -1, "num_threads": 1, "deterministic": True, "seed": 1, "num_leaves": 7, "min_data_in_leaf": 5, "learning_rate": 0.3}

r = np.random.default_rng(5)
n = 1500
X = np.column_stack([
    r.normal(size=n),
    r.poisson(0.8, n) * r.choice([1.0, -1.0], n),
    r.gamma(2, 30, n),
    r.integers(0, 70, n).astype(float),
    r.integers(0, 6, n).astype(float),
])
X[:, 0][r.random(n) < 0.15] = np.nan
X[:, 3][r.random(n) < 0.05] = np.nan
shift = r.normal(0, 1, 70)
signal = np.nan_to_num(X[:, 0]) + 0.7 * (X[:, 1] == 0) + X[:, 2] / 60 + shift[np.nan_to_num(X[:, 3]).astype(int)] + 0.8 * np.isin(X[:, 4], [0, 3, 5])
signal += r.normal(0, 0.3, n)
positive = np.exp(signal / 3)
two = (signal > 1.5).astype(int)
three = np.digitize(signal, [0.8, 2.2])
rank = np.clip(np.digitize(signal, [0, 1, 2, 3]), 0, 4)
share = 1 / (1 + np.exp(-signal))


def train(objective, y, rounds=6, cat=(3, 4), group=None, init=None, names=NAMES, **more):
    d = lgb.Dataset(X, y, categorical_feature=list(cat), group=group, feature_name=names, free_raw_data=False, params={k: v for k, v in more.items() if "missing" in k})
    return lgb.train({**BASE, "objective": objective, **more}, d, rounds, init_model=init)


def squared(y, k=1):
    return lambda p, d: ((p - (y if k == 1 else np.eye(k)[y])), np.ones_like(p))


groups = [30] * (n // 30)
rf = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6, "feature_fraction": 0.8}
models = {
    "regression": train("regression", signal),
    "regression_sqrt": train("regression", signal, reg_sqrt=True),
    "regression_l1": train("regression_l1", signal),
    "huber": train("huber", signal),
    "fair": train("fair", signal),
    "quantile": train("quantile", signal, alpha=0.8),
    "mape": train("mape", positive),
    "poisson": train("poisson", positive),
    "gamma": train("gamma", positive),
    "tweedie": train("tweedie", positive),
    "binary": train("binary", two),
    "binary_sigmoid": train("binary", two, sigmoid=0.7),
    "multiclass": train("multiclass", three, 4, num_class=3),
    "multiclassova": train("multiclassova", three, 4, num_class=3, sigmoid=1.3),
    "cross_entropy": train("cross_entropy", share),
    "cross_entropy_lambda": train("cross_entropy_lambda", share),
    "lambdarank": train("lambdarank", rank, group=groups),
    "rank_xendcg": train("rank_xendcg", rank, group=groups),
    "custom": train(squared(signal), signal),
    "custom_multi": train(squared(three, 3), three, 3, num_class=3),
    "forest_regression": train("regression", signal, **rf),
    "forest_binary": train("binary", two, **rf),
    "forest_multiclass": train("multiclass", three, 4, num_class=3, **rf),
    "dart": train("binary", two, 8, boosting="dart", drop_rate=0.5),
    "goss": train("regression", signal, data_sample_strategy="goss"),
    "zero_missing": train("regression", signal, cat=(), zero_as_missing=True),
    "zero_missing_codes": train("binary", two, zero_as_missing=True),
    "no_missing": train("binary", two, use_missing=False),
    "numbers_only": train("binary", two, 90, cat=(), num_leaves=4),
    "stumps": train("binary", two, 90, num_leaves=2),
    "constant": train("regression", signal, min_data_in_leaf=n),
    "certain": train("binary", two, learning_rate=10.0),  # probabilities of 1e-30
    "certain_ova": train("multiclassova", three, 3, num_class=3, learning_rate=20.0),  # several classes of probability 1
    "linear": train("regression", signal, cat=(), linear_tree=True),
}
# After early stopping the model ends with its best iteration, and so does its file.
d = lgb.Dataset(X[:300], two[:300], feature_name=NAMES)
models["early_stopped"] = lgb.train({**BASE, "objective": "binary", "learning_rate": 0.6}, d, 60, valid_sets=[lgb.Dataset(X[750:], two[750:], reference=d)],
                                    callbacks=[lgb.early_stopping(4, verbose=False)])
assert 0 < models["early_stopped"].best_iteration == models["early_stopped"].num_trees() < 56
models["mixed"] = train("regression", signal, 3, cat=(4,), zero_as_missing=True, init=train("regression", signal, 3))

expected = {}
for name, m in models.items():
    m.save_model(HERE / f"{name}.txt")
for name in ("numbers_only", "multiclass", "regression"):
    e = onnxmltools.convert_lightgbm(models[name], initial_types=[("input", FloatTensorType([None, 5]))], zipmap=False, target_opset=15)
    (HERE / f"{name}.onnx").write_bytes(e.SerializeToString())

rows = [list(x) for x in X[:60]]
odd = [np.nan, 0.0, -0.0, 1e-36, -1e-36, ZERO, -ZERO, np.nextafter(ZERO, 1), np.nextafter(-ZERO, -1), 5e-324, np.inf, -np.inf, 1e300, -1e300, 0.5, -0.5,
       -0.999, -1.0, 2.7, 5.999, 30.0, 31.0, 32.0, 63.0, 64.0, 69.5, 70.0, 95.0, 96.0, 1e6, 2147483647.0, 2147483648.0, 4294967296.0, 1e18, -2147483649.0]
for f in range(5):
    for v in odd:
        x = list(X[int(r.integers(n))])
        x[f] = v
        rows.append(x)
thresholds = {f: set() for f in range(5)}
for m in models.values():
    t = m.trees_to_dataframe()
    t = t[t.decision_type == "<="]
    for f in range(5):
        thresholds[f].update(t.threshold[t.split_feature == NAMES[f]].astype(float))
for f in range(5):
    ts = sorted(thresholds[f])
    for v in r.permutation(ts)[:25]:
        for w in (v, np.nextafter(v, math.inf)):
            x = list(X[int(r.integers(n))])
            x[f] = w
            rows.append(x)
for _ in range(60):
    rows.append([r.choice(odd) if r.random() < 0.5 else X[r.integers(n), f] for f in range(5)])
rows = np.array(rows)


def write(path, header, lines):
    with open(path, "w", newline="") as out:
        w = csv.writer(out, lineterminator="\n")
        w.writerow(header)
        w.writerows(lines)


def text(v):
    return "" if isinstance(v, float) and math.isnan(v) else repr(float(v)) if isinstance(v, (float, np.floating)) else str(v)


def columns(prediction, name):
    p = np.asarray(prediction)
    return {name: p} if p.ndim == 1 else {f"{name}:{k}": p[:, k] for k in range(p.shape[1])}


for name, m in models.items():
    if name != "linear":
        expected.update(columns(m.predict(rows), name))
write(HERE / "data.csv", NAMES, [[text(v) for v in x] for x in rows])
write(HERE / "expected.csv", list(expected), [[text(v) for v in x] for x in zip(*expected.values())])

# A data frame with categories: texts, integers, floats, booleans.
country = r.choice(["ch", "de", "fr", "it", "us", "größer, als"], n)
size = r.choice([10, 20, 40], n)
grade = r.choice([0.5, 1.5, 2.0], n)
flag = r.random(n) < 0.4
y = signal + np.isin(country, ["de", "us"]) + (size == 20) * 1.5 + (grade == 1.5) + flag * 0.7
frame = pd.DataFrame({"amount": X[:, 2], "country": pd.Categorical(country), "size": pd.Categorical(size), "grade": pd.Categorical(grade), "flag": pd.Categorical(flag)})
frame.loc[r.random(n) < 0.1, "country"] = np.nan
m = lgb.train({**BASE, "objective": "binary"}, lgb.Dataset(frame, (y > 2.5).astype(int)), 8)
m.save_model(HERE / "pandas.txt")
test = frame.sample(80, random_state=0).astype(object)
test["country"] = [c if r.random() > 0.2 else "never seen" for c in test.country]
test["size"] = [c if r.random() > 0.2 else 30 for c in test["size"]]
test["grade"] = [c if r.random() > 0.2 else 9.25 for c in test.grade]
typed = pd.DataFrame({"amount": test.amount.astype(float), **{c: pd.Categorical(test[c]) for c in ("country", "size", "grade", "flag")}})
write(HERE / "pandas_data.csv", list(test), [["" if isinstance(v, float) and math.isnan(v) else str(v) for v in x] for x in test.itertuples(index=False)])
write(HERE / "pandas_expected.csv", ["pandas"], [[text(v)] for v in m.predict(typed)])
