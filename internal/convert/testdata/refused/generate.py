"""Makes files that are recognised and refused, with the libraries themselves. It needs scikit-learn, joblib, cloudpickle, xgboost, lightgbm and skops."""

import bz2
import gzip
import pickle
from pathlib import Path

import cloudpickle
import joblib
import lightgbm
import numpy as np
import xgboost
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 1.0, 2.0, 3.0])
m = LinearRegression().fit(X, y)
x = xgboost.XGBRegressor(n_estimators=1, max_depth=1).fit(X, y)
g = lightgbm.LGBMRegressor(n_estimators=1, verbose=-1, min_child_samples=1).fit(X, y)

for protocol in (0, 2, 5):
    (HERE / f"sklearn_protocol{protocol}.pkl").write_bytes(pickle.dumps(m, protocol=protocol))
(HERE / "function_cloudpickle.pkl").write_bytes(cloudpickle.dumps(lambda rows: rows * 2))
joblib.dump(make_pipeline(StandardScaler(), m).fit(X, y), HERE / "pipeline.joblib")
for name, how in {"gz": ("gzip", 3), "z": 3, "bz2": ("bz2", 3), "xz": ("xz", 3), "lzma": ("lzma", 3)}.items():
    joblib.dump(m, HERE / f"sklearn.joblib.{name}", compress=how)
(HERE / "xgboost.pkl").write_bytes(pickle.dumps(x))
(HERE / "lightgbm.pkl").write_bytes(pickle.dumps(g))
x.get_booster().dump_model(HERE / "xgboost_dump.json", dump_format="json")
import json
(HERE / "lightgbm_dump.json").write_text(json.dumps(g.booster_.dump_model()))
x.save_model(HERE / "x.json")
(HERE / "xgboost.json.gz").write_bytes(gzip.compress((HERE / "x.json").read_bytes(), mtime=0))
(HERE / "x.json").unlink()
np.save(HERE / "array.npy", X)
np.savez(HERE / "arrays.npz", X=X)
