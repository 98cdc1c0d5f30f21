"""Small XGBoost models with the library's own predictions: python generate.py (xgboost 3.2, pandas; old.py adds models of older versions).

data.csv holds the rows; every other file is NAME.json or NAME.ubj beside NAME.csv, the predictions of each row: value, or one column per class, or label.
"""
import pathlib
import numpy as np
import pandas as pd
import xgboost as xgb

HERE = pathlib.Path(__file__).parent
N = 240
r = np.random.default_rng(5)
X = r.normal(size=(N, 5)).astype(np.float32)
X[:, 3] = r.integers(0, 12, N)
X[:, 4] = r.integers(0, 3, N)
X[r.random(X.shape) < 0.08] = np.nan
Z = np.nan_to_num(X)
y = (2 * Z[:, 0] + Z[:, 1] * Z[:, 2] + np.isin(Z[:, 3], [1, 4, 5, 9]) * 1.5 + (Z[:, 4] == 1) + r.normal(0, 0.3, N)).astype(np.float32)
NAMES = ["a", "b", "c", "day", "kind"]
CODES = ["float", "float", "float", "c", "c"]


def save(name, booster, prediction, kind="ubj"):
    booster.save_model(HERE / f"{name}.{kind}")
    p = np.asarray(prediction, dtype=np.float64)
    p = p.reshape(len(p), -1)
    pd.DataFrame(p, columns=[str(i) for i in range(p.shape[1])]).to_csv(HERE / f"{name}.csv", index=False, float_format="%.9g")


def train(name, objective, target, rounds=6, types=None, kind="ubj", **parameters):
    d = xgb.DMatrix(X, feature_names=NAMES, feature_types=types, enable_categorical=True)
    groups = parameters.pop("groups", None)
    if objective == "survival:aft":
        d.set_float_info("label_lower_bound", target)
        d.set_float_info("label_upper_bound", target)
    else:
        d.set_label(target)
    if groups:
        d.set_group(groups)
    b = xgb.train({"objective": objective, "max_depth": 3, "eta": 0.5, "seed": 1, **parameters}, d, rounds)
    save(name, b, b.predict(d), kind)


def main():
    pd.DataFrame(X, columns=NAMES).to_csv(HERE / "data.csv", index=False, float_format="%.9g")
    three, two, positive = np.digitize(y, [-1, 1]), (y > 0.5).astype(int), np.abs(y) + 0.1
    for objective, target in {
        "reg:squarederror": y, "reg:squaredlogerror": positive, "reg:pseudohubererror": y, "reg:absoluteerror": y, "reg:logistic": 1 / (1 + np.exp(-y)),
        "binary:logistic": two, "binary:logitraw": two, "binary:hinge": two, "count:poisson": np.round(positive), "reg:gamma": positive,
        "reg:tweedie": positive, "survival:cox": np.where(two > 0, positive, -positive), "survival:aft": positive,
    }.items():
        train(objective.replace(":", "_"), objective, target)
    train("reg_quantileerror", "reg:quantileerror", y, quantile_alpha=0.3)
    for objective in ("multi:softmax", "multi:softprob"):
        train(objective.replace(":", "_"), objective, three, num_class=3, kind="json")
    for objective in ("rank:ndcg", "rank:pairwise", "rank:map"):
        train(objective.replace(":", "_"), objective, three if objective != "rank:map" else two, groups=[24] * 10)
    train("base_score", "binary:logistic", two, base_score=0.3, kind="json")
    train("large_sums", "reg:squarederror", y * 1000 + 50000, rounds=10)
    train("rare", "binary:logistic", (y > 4).astype(int), rounds=25)
    train("onehot", "binary:logistic", two, types=CODES, max_cat_to_onehot=20, kind="json")
    train("partition", "reg:squarederror", y, types=CODES, max_cat_to_onehot=1, rounds=10)
    train("typed", "reg:squarederror", y, types=["float", "q", "float", "int", "int"])
    train("parallel", "multi:softprob", three, num_class=3, num_parallel_tree=3, subsample=0.7, rounds=3)
    train("dart", "reg:squarederror", y + 20, rounds=12, booster="dart", rate_drop=0.4, kind="json")
    train("dart_multi", "multi:softprob", three, rounds=6, num_class=3, booster="dart", rate_drop=0.4, one_drop=1)
    train("linear", "reg:squarederror", y + 3, booster="gblinear", kind="json")
    train("linear_multi", "multi:softprob", three, num_class=3, booster="gblinear")
    train("quantiles", "reg:quantileerror", y, quantile_alpha=np.array([0.1, 0.5, 0.9]))
    train("constant", "reg:squarederror", np.full(N, 7.25))
    train("deep", "reg:squarederror", y, max_depth=0, max_leaves=60, grow_policy="lossguide", tree_method="hist", min_child_weight=0, rounds=2)

    for name, parallel in {"early": 1, "early_parallel": 2}.items():
        c = xgb.XGBClassifier(n_estimators=60, max_depth=3, learning_rate=0.9, early_stopping_rounds=4, num_parallel_tree=parallel, random_state=2)
        c.fit(X[:150], three[:150], eval_set=[(X[150:], three[150:])], verbose=False)
        assert c.best_iteration + 1 < c.get_booster().num_boosted_rounds()
        save(name, c.get_booster(), c.predict_proba(X))

    # A data frame whose categories have names: text and integers.
    day = pd.Series(X[:, 3]).map(lambda v: None if np.isnan(v) else "day %d" % v)
    frame = pd.DataFrame(X[:, :3], columns=NAMES[:3])
    frame["day"] = pd.Categorical(day)
    frame["kind"] = pd.Categorical.from_codes(np.where(np.isnan(X[:, 4]), -1, Z[:, 4]).astype(int), categories=[10, -20, 35])
    frame["flag"] = Z[:, 0] > 0
    frame["size"] = r.integers(0, 100, N)
    named = frame.copy()
    named.to_csv(HERE / "frame_data.csv", index=False, float_format="%.9g")
    d = xgb.DMatrix(frame, two, enable_categorical=True)
    b = xgb.train({"objective": "binary:logistic", "max_depth": 4, "max_cat_to_onehot": 2, "seed": 1}, d, 8)
    b.save_model(HERE / "frame.json")
    save("frame", b, b.predict(d))
    b = xgb.train({"objective": "reg:squarederror", "multi_strategy": "multi_output_tree", "tree_method": "hist"}, xgb.DMatrix(X, np.column_stack([y, -y])), 2)
    b.save_model(HERE / "refused_multi_output.ubj")


if __name__ == "__main__":
    main()
