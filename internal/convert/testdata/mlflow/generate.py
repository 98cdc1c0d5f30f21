"""Makes the MLflow model folders beside it, with MLflow itself. It needs mlflow-skinny, pandas, scikit-learn, xgboost, lightgbm, onnx, skops and skl2onnx.

Each folder gets data.csv, rows of features, and expected.csv, what the library itself says to them, beside it as NAME.data.csv and NAME.expected.csv.
"""

import shutil
import sys
from pathlib import Path

import lightgbm
import mlflow
import numpy as np
import onnx
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent
r = np.random.default_rng(5)
n = 60
X = pd.DataFrame({"amount": r.gamma(2, 50, n), "hour": r.integers(0, 24, n), "score": r.normal(size=n)})
N = X.astype("float32")
M = N.mask(r.random(N.shape) < 0.1)
signal = X.amount / 60 + X.score
binary = (signal > 1.6).astype(int)
three = np.digitize(signal, [1.0, 2.2])


def fresh(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    return str(path)


def slim(name):
    """The environments of Python are no part of what is tested."""
    for f in ("conda.yaml", "python_env.yaml", "requirements.txt"):
        (HERE / name / f).unlink(missing_ok=True)


def keep(name, data, expected):
    slim(name)
    data.to_csv(HERE / f"{name}.data.csv", index_label="id", float_format="%.9g")
    pd.DataFrame(expected, index=pd.RangeIndex(len(data), name="id")).to_csv(HERE / f"{name}.expected.csv", float_format="%.17g")


def onnx_matrix():
    m = LogisticRegression().fit(N, three)
    o = to_onnx(m, N.to_numpy()[:1], options={"zipmap": False}, target_opset=15)
    p = m.predict_proba(N)
    mlflow.onnx.save_model(o, fresh("onnx_matrix"), input_example=N.to_numpy()[:2], save_as_external_data=False,
                           signature=infer_signature(N.to_numpy(), m.predict(N)), metadata={"team": "risk", "reviewed": True})
    keep("onnx_matrix", N, {"label": m.predict(N), **{f"probability_{k}": p[:, k] for k in range(3)}})


def onnx_columns():
    """One input a column, of three types, as an exporter for pipelines writes them."""
    h = onnx.helper
    t = onnx.TensorProto
    ports = [h.make_tensor_value_info("amount", t.FLOAT, [None, 1]), h.make_tensor_value_info("hour", t.INT64, [None, 1]),
             h.make_tensor_value_info("urgent", t.BOOL, [None, 1])]
    nodes = [h.make_node("Cast", ["hour"], ["h"], to=t.FLOAT), h.make_node("Cast", ["urgent"], ["u"], to=t.FLOAT),
             h.make_node("Add", ["amount", "h"], ["s"]), h.make_node("Add", ["s", "u"], ["variable"])]
    g = h.make_graph(nodes, "columns", ports, [h.make_tensor_value_info("variable", t.FLOAT, [None, 1])])
    m = h.make_model(g, opset_imports=[h.make_opsetid("", 15)], ir_version=8)
    D = pd.DataFrame({"amount": N.amount, "hour": X.hour, "urgent": X.score > 0})
    mlflow.onnx.save_model(m, fresh("onnx_columns"), save_as_external_data=False, input_example=D[:1],
                           signature=ModelSignature(Schema([ColSpec("float", "amount"), ColSpec("long", "hour"), ColSpec("boolean", "urgent", required=False)]),
                                                    Schema([ColSpec("float", "variable")])))
    keep("onnx_columns", D, {"value": D.amount + D.hour.astype("float32") + D.urgent.astype("float32")})


def onnx_external():
    m = LogisticRegression().fit(N, three)
    o = to_onnx(m, N.to_numpy()[:1], target_opset=15)
    o.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2000, "float32"), "big"))
    path = fresh("onnx_external")
    mlflow.onnx.save_model(o, path)
    for f in Path(path).glob("*.data"):  # named by a UUID
        o = onnx.load(path + "/model.onnx")
        f.unlink()
        onnx.save(o, path + "/model.onnx", save_as_external_data=True, location="weights.data", size_threshold=1024)
    slim("onnx_external")


def xgboost_ubj():
    m = xgboost.XGBClassifier(n_estimators=8, max_depth=3, random_state=0).fit(M, binary)
    mlflow.xgboost.save_model(m, fresh("xgboost_ubj"), model_format="ubj", input_example=M[:3], signature=infer_signature(M, m.predict(M)))
    keep("xgboost_ubj", M, {"label": m.predict(M), "probability_1": m.predict_proba(M)[:, 1]})


def xgboost_json():
    m = xgboost.train({"objective": "reg:squarederror", "max_depth": 3}, xgboost.DMatrix(N, signal), 8)
    mlflow.xgboost.save_model(m, fresh("xgboost_json"), model_format="json", signature=infer_signature(N, m.predict(xgboost.DMatrix(N))))
    keep("xgboost_json", N, {"value": m.predict(xgboost.DMatrix(N))})


def lightgbm_text():
    m = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1, "min_data_in_leaf": 4, "num_threads": 1}, lightgbm.Dataset(M, three), 5)
    p = m.predict(M)
    mlflow.lightgbm.save_model(m, fresh("lightgbm_text"), input_example=M[:2], signature=infer_signature(M, p))
    keep("lightgbm_text", M, {"label": p.argmax(1), **{f"probability_{k}": p[:, k] for k in range(3)}})


def lightgbm_sklearn():
    m = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(N, binary)
    mlflow.lightgbm.save_model(m, fresh("lightgbm_sklearn"), serialization_format="cloudpickle")
    slim("lightgbm_sklearn")


def lightgbm_skops():
    """What MLflow does with LightGBM's own classes unless told otherwise."""
    mlflow.lightgbm.save_model(lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(N, binary), fresh("lightgbm_skops"))
    slim("lightgbm_skops")


def sklearn():
    mlflow.sklearn.save_model(LogisticRegression().fit(N, binary), fresh("sklearn"), serialization_format="cloudpickle")
    slim("sklearn")


def function():
    class Twice(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input * 2

    mlflow.pyfunc.save_model(fresh("function"), python_model=Twice())
    slim("function")


ALL = [onnx_matrix, onnx_columns, onnx_external, xgboost_ubj, xgboost_json, lightgbm_text, lightgbm_sklearn, lightgbm_skops, sklearn, function]
for f in ALL:
    if len(sys.argv) < 2 or f.__name__ in sys.argv[1:]:
        f()
