-- Registers artifacts/iris_v2-ee85bd0cf261.onnx as the next version of iris.
-- 651 bytes; `rowcast model migration up` uploads them, `rowcast model upload` does so for the tool migrate.
SELECT ml.begin_change('000002_iris_v2');

SELECT ml.promote('iris', version)
FROM ml.register_artifact('iris',
    sha256 => 'ee85bd0cf2614473a8d375da80b556eddd969b2ec552f7a56bbcabceafaeda05',
    options => '{
  "description": "Logistic regression, a second version of iris; probabilities as a tensor.",
  "task": "classification",
  "inputs": "matrix",
  "features": [
    {"name":"sepal_length","type":"real"},
    {"name":"sepal_width","type":"real"},
    {"name":"petal_length","type":"real"},
    {"name":"petal_width","type":"real"}
  ],
  "labels": ["setosa","versicolor","virginica"],
  "target": "species",
  "trained_with": "scikit-learn"
}') AS version;
